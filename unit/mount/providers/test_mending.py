"""A cache of rclone's whose client did not come to write all of its metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dynvol.mount.providers.rclone import program


def cached(cache: Path, name: str, *, content: bytes, metadata: str) -> tuple[Path, Path]:
    data, meta = cache / "vfs/remote/bucket" / name, cache / "vfsMeta/remote/bucket" / name
    for path in (data, meta):
        path.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(content)
    meta.write_text(metadata)
    return data, meta


@pytest.mark.parametrize("metadata", ["", '{"ModTime": "2026-0', "null"])
@pytest.mark.parametrize("content", [b"all of it", b""])
def test_a_whole_file_whose_metadata_broke_is_to_be_uploaded(tmp_path: Path, metadata: str, content: bytes) -> None:
    data, meta = cached(tmp_path, "a/b", content=content, metadata=metadata)
    program.mend(str(tmp_path))
    found = json.loads(meta.read_text())
    assert (found["Dirty"], found["Size"]) == (True, len(content))
    assert found["Rs"] == ([{"Pos": 0, "Size": len(content)}] if content else None)
    assert data.read_bytes() == content
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["b", "b"]


def test_metadata_that_can_be_read_stay_as_they_are(tmp_path: Path) -> None:
    _, meta = cached(tmp_path, "a", content=b"x", metadata='{"Dirty": false, "Size": 1}')
    program.mend(str(tmp_path))
    assert meta.read_text() == '{"Dirty": false, "Size": 1}'


def test_a_file_with_holes_was_not_closed_and_is_not_uploaded(tmp_path: Path) -> None:
    """What is missing in it is in the storage: to upload it would overwrite that with zeros."""
    data, meta = cached(tmp_path, "a", content=b"", metadata="")
    os.truncate(data, 1 << 20)
    with data.open("r+b") as file:
        file.write(b"the beginning")
    program.mend(str(tmp_path))
    assert meta.read_text() == ""


def test_there_may_be_no_cache_yet(tmp_path: Path) -> None:
    program.mend(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("fingerprint", "ranges", "completed"),
    [
        ("4,2026-11-21,abc", [(4, 3)], [(4, 6)]),
        ("4,2026-11-21,abc", [(0, 2), (3, 4)], [(0, 2), (3, 1), (4, 6)]),
        ("", [(0, 8)], [(0, 10)]),
        ("4,2026-11-21,abc", None, [(4, 6)]),
    ],
)
def test_what_lies_beyond_the_end_of_what_is_stored_is_uploaded_though_the_metadata_leave_it_out(
    tmp_path: Path, fingerprint: str, ranges: list[tuple[int, int]] | None, completed: list[tuple[int, int]]
) -> None:
    written = {"Dirty": True, "Size": 10, "Fingerprint": fingerprint, "ModTime": "2026-11-21T00:00:00Z"}
    _, meta = cached(tmp_path, "a", content=b"0123456789", metadata=json.dumps({**written, "Rs": described(ranges)}))
    program.mend(str(tmp_path))
    assert json.loads(meta.read_text()) == {**written, "Rs": described(completed)}


@pytest.mark.parametrize(
    ("stored", "cut", "ranges", "completed"),
    [(4, 0, None, [(0, 10)]), (10, 0, None, [(0, 10)]), (20, 2, [(0, 1)], [(0, 1), (2, 8)])],
)
def test_what_was_written_after_the_file_was_cut_off_is_not_taken_from_what_is_stored(
    tmp_path: Path, stored: int, cut: int, ranges: list[tuple[int, int]] | None, completed: list[tuple[int, int]]
) -> None:
    emptied = {"Dirty": True, "Size": cut, "Fingerprint": f"{stored},2026-11-21,abc", "Rs": described(ranges)}
    _, meta = cached(tmp_path, "a", content=b"0123456789", metadata=json.dumps(emptied))
    program.mend(str(tmp_path))
    assert json.loads(meta.read_text()) == {**emptied, "Size": 10, "Rs": described(completed)}


@pytest.mark.parametrize(
    "change", [{"Dirty": False}, {"Rs": [{"Pos": 4, "Size": 6}]}, {"Fingerprint": "10,x"}, {"Fingerprint": "x"}]
)
def test_a_file_that_is_complete_or_does_not_wait_stays_as_it_is(tmp_path: Path, change: dict[str, Any]) -> None:
    metadata = json.dumps({"Dirty": True, "Size": 10, "Fingerprint": "4,x", "Rs": [{"Pos": 4, "Size": 3}], **change})
    _, meta = cached(tmp_path, "a", content=b"0123456789", metadata=metadata)
    program.mend(str(tmp_path))
    assert meta.read_text() == metadata


EARLIER, LATER = "2026-11-21T16:27:25.483672657Z", "2026-11-21T16:27:25.483673Z"


@pytest.mark.parametrize(
    ("since", "uploaded"),
    [
        ({"ModTime": LATER, "Dirty": True}, False),
        ({"ModTime": LATER, "Dirty": False}, False),
        ({"ModTime": "2026-11-21T17:27:26.5+01:00", "Dirty": False}, False),
        ({"ModTime": EARLIER, "Dirty": True}, True),
        ({"ModTime": "2026-11-21T17:27:25.4+01:00", "Dirty": True}, True),
        # Only read: this is when the storage says that it got it.
        ({"ModTime": "2026-11-21T16:28:00Z", "Dirty": False}, True),
        ({"ModTime": "yesterday", "Dirty": True}, True),
        ({}, True),
        (None, True),
    ],
)
def test_what_was_written_again_through_a_successor_is_not_undone(
    tmp_path: Path, since: dict[str, Any] | None, uploaded: bool
) -> None:
    waits = {"ModTime": EARLIER, "Dirty": True, "Size": 3}
    data, meta = cached(tmp_path / "0", "a", content=b"old", metadata=json.dumps(waits))
    _, done = cached(tmp_path / "0", "b", content=b"old", metadata=json.dumps({**waits, "Dirty": False}))
    for name in ("a", "b") if since is not None else ():
        cached(tmp_path / "1", name, content=b"new", metadata=json.dumps(since))
    program.drop_superseded(str(tmp_path / "0"), newer=[str(tmp_path / "1")])
    assert data.exists() is meta.exists() is uploaded
    assert done.exists()


def described(ranges: list[tuple[int, int]] | None) -> list[dict[str, int]] | None:
    return None if ranges is None else [{"Pos": begin, "Size": size} for begin, size in ranges]
