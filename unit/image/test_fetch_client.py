"""hack/fetch-client, which gets FUSE clients into the image: nothing stays that is not what was asked for."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "hack/fetch-client"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl, with which the image's build fetches clients")


@pytest.fixture
def released(tmp_path: Path) -> Path:
    file = tmp_path / "released"
    file.write_bytes(b"a program")
    return file


def fetch(released: Path, sha256: str) -> subprocess.CompletedProcess[str]:
    command = ["/bin/sh", str(PROGRAM), released.as_uri(), sha256, str(fetched(released))]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False, timeout=60)


def fetched(released: Path) -> Path:
    return released.with_name("fetched")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_has_the_checksum_is_kept(released: Path) -> None:
    done = fetch(released, sha256(b"a program"))
    assert (done.returncode, done.stderr) == (0, "")
    assert fetched(released).read_bytes() == b"a program"


def test_what_has_another_checksum_is_thrown_away(released: Path) -> None:
    done = fetch(released, sha256(b"another"))
    assert done.returncode == 1
    assert f"{released.as_uri()} has the SHA-256 {sha256(b'a program')}, but {sha256(b'another')} was asked for" in done.stderr
    assert not fetched(released).exists()


def test_nothing_is_fetched_without_a_checksum(released: Path) -> None:
    done = fetch(released, "")
    assert done.returncode == 1
    assert f"no SHA-256 was given for {released.as_uri()}" in done.stderr
    assert not fetched(released).exists()
