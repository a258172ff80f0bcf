"""What is wanted, on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dynvol.api.mounts import WantedMount
from dynvol.service.errors import RecordsUnreadable
from dynvol.service.records import Records


def mount(path: str) -> WantedMount:
    return WantedMount(
        claim=f"/{path}", claim_uid=path, pod_uid="", path=path, provider="s3", spec_hash="1", parameters={"bucket": "b"}
    )


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    records = Records(str(tmp_path))
    assert records.read() == []
    records.write([mount("b"), mount("a")])
    assert Records(str(tmp_path)).read() == [mount("a"), mount("b")]
    records.write([])
    assert records.read() == []


def test_only_root_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Records(str(tmp_path)).write([mount("a")])
    finally:
        os.umask(before)
    assert [stat.filemode(path.stat().st_mode) for path in tmp_path.iterdir()] == ["-rw-------"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(str(tmp_path))
    records.write([mount("a")])

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            records.write([mount("b")])
    assert records.read() == [mount("a")]
    records.write([mount("b")])
    assert records.read() == [mount("b")]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 2, "mounts": []}', b'{"format": 1, "mounts": [{"path": "a"}]}'])
def test_what_cannot_be_understood_is_neither_ignored_nor_overwritten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mounts.json").write_bytes(content)
    with pytest.raises(RecordsUnreadable, match=r"mounts\.json"):
        Records(str(tmp_path)).read()
    assert (tmp_path / "mounts.json").read_bytes() == content
