"""The cgroups that the cluster's containers live in, on machines of either version of the hierarchy.

runc makes them; this module finds where they are, says whether they can be made at all, and removes what is left.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def is_unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """The one hierarchy of version 2, or each controller's of version 1."""
    if is_unified():
        return [ROOT]
    return [folder for folder in sorted(ROOT.iterdir()) if (folder / "cgroup.procs").exists() and not folder.is_symlink()]


def writable(parent: str) -> bool:
    """Whether groups can be made here: found out by making `parent`, which containers will live under."""
    try:
        for root in hierarchies():
            (root / parent.lstrip("/")).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return bool(hierarchies())


def oom_file(cgroup: str) -> Path:
    """Where the kernel counts its kills for memory."""
    below = cgroup.lstrip("/")
    return ROOT / below / "memory.events" if is_unified() else ROOT / "memory" / below / "memory.oom_control"


def remove(parent: str) -> None:
    """Remove `parent` and every empty group below it. A group that was just emptied may be busy for a moment."""
    for root in hierarchies():
        top = root / parent.lstrip("/")
        for folder, _, _ in os.walk(top, topdown=False):
            _rmdir(Path(folder))


def left(parent: str) -> list[Path]:
    return [top for root in hierarchies() if (top := root / parent.lstrip("/")).exists()]


def _rmdir(group: Path) -> None:
    deadline = time.monotonic() + 2
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        else:
            return


def processes(parent: str) -> set[int]:
    """Processes in `parent` and below, in any hierarchy."""
    found: set[int] = set()
    for root in hierarchies():
        for folder, _, _ in os.walk(root / parent.lstrip("/")):
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (Path(folder) / "cgroup.procs").read_text().split())
    return found
