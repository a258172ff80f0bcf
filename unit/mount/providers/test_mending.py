"""A cache of rclone's whose client was killed while it wrote metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
