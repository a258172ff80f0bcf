"""What tests share that serve on Unix sockets: a folder in which a socket's path is short, and a loop that no one may block."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def an_event_loop_that_is_not_blocked() -> Iterator[None]:
    """Of every test in whose conftest it is imported."""
    with blockbuster_ctx("dynvol"):
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="dv-"))
    yield path
    left = [found for found in path.rglob("*") if found.is_socket()]
    shutil.rmtree(path)
    assert not left, "a socket's file was left behind"
