"""Every test here has an event loop that no one may block, and a kubelet directory in which sockets' paths are short."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.csi.wishes import Kernel
from unit.sockets import an_event_loop_that_is_not_blocked, folder

__all__ = ["an_event_loop_that_is_not_blocked", "folder"]


@pytest.fixture
def kubelet_dir(folder: Path) -> Path:
    return folder


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()
