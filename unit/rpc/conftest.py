"""Every test here runs with an event loop that no one may block, and has a folder in which a socket's path is short."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from dynvol.csi.proto.csi import v1 as csi

# Where pydantic is installed, which other tests need and dynvol does not, betterproto2 loads it with the first message.
bytes(csi.ProbeRequest())


@pytest.fixture(autouse=True)
def _an_event_loop_that_is_not_blocked() -> Iterator[None]:
    with blockbuster_ctx("dynvol"):
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="dv-"))
    yield path
    left = [found for found in path.rglob("*") if found.is_socket()]
    shutil.rmtree(path)
    assert not left, "a socket's file was left behind"
