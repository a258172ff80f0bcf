"""Mounts of the local cluster: the calls that the kubelet and the node's first process make, and the mount table.

Written apart from `dynvol.mount` on purpose: what checks a thing must not be that thing. It only mounts and reads the
table; who mounts what, and when, is decided by the callers.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_REMOUNT, MS_BIND, MS_REC = 0x20, 0x1000, 0x4000
MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 18, 1 << 19, 1 << 20
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWPID = 0x00020000, 0x04000000, 0x20000000

_libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """One line of mountinfo. `shared` and `master` are peer group ids, 0 where there is none."""

    mount_point: Path
    root: str
    filesystem: str
    source: str
    device: str
    shared: int
    master: int
    read_only: bool


def unshare(flags: int) -> None:
    """Leave namespaces for new ones; a new process-id namespace holds the children only."""
    _check(_libc.unshare(flags), "unshare")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, *, filesystem: str = "", flags: int = 0, data: str = "") -> None:
    result = _libc.mount(
        source.encode(), os.fsencode(target), filesystem.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _check(result, f"mount {source} on {target}")


def bind(source: Path, target: Path, *, recursive: bool = True) -> None:
    mount(str(source), target, flags=MS_BIND | (MS_REC if recursive else 0))


def make_shared(target: Path, *, recursive: bool = False) -> None:
    mount("", target, flags=MS_SHARED | (MS_REC if recursive else 0))


def make_private(target: Path, *, recursive: bool = False) -> None:
    mount("", target, flags=MS_PRIVATE | (MS_REC if recursive else 0))


def tmpfs(target: Path, *, options: str = "mode=0755") -> None:
    mount("tmpfs", target, filesystem="tmpfs", flags=MS_NOSUID | MS_NODEV, data=options)


def overlay(target: Path, *, lower: Path, upper: Path, work: Path) -> None:
    mount("overlay", target, filesystem="overlay", data=f"lowerdir={lower},upperdir={upper},workdir={work}")


def unmount(target: Path, *, lazy: bool = False) -> None:
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
    _check(_libc.umount2(os.fsencode(target), flags), f"unmount {target}")


def table(process: str = "self") -> list[Mount]:
    """The mount table of a process's namespace, in mount order. Touches none of the mounts."""
    with open(f"/proc/{process}/mountinfo", "rb") as lines:
        return [_parsed(line) for line in lines]


def _parsed(line: bytes) -> Mount:
    left, _, right = line.rstrip(b"\n").partition(b" - ")
    _, _, device, root, point, options, *tags = left.split(b" ")
    filesystem, source, _ = right.split(b" ", 2)
    groups = dict(tag.split(b":", 1) for tag in tags if b":" in tag)
    return Mount(
        mount_point=Path(_unescaped(point)),
        root=_unescaped(root),
        filesystem=filesystem.decode(),
        source=_unescaped(source),
        device=device.decode(),
        shared=int(groups.get(b"shared", 0)),
        master=int(groups.get(b"master", 0)),
        read_only=b"ro" in options.split(b","),
    )


def _unescaped(field: bytes) -> str:
    """The kernel writes blank, tab, newline and backslash as three octal digits."""
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        field = field.replace(code, bytes([int(code[1:], 8)]))
    return os.fsdecode(field)


def is_mounted(target: Path) -> bool:
    return any(mount.mount_point == target for mount in table())


def below(root: Path, *, process: str = "self") -> list[Path]:
    """Mount points at or below `root`, the deepest and newest first: the order to unmount in."""
    return [m.mount_point for m in reversed(table(process)) if m.mount_point.is_relative_to(root)]


def holding(target: Path) -> Mount:
    """The mount that a path lies in, by the table alone: the longest mount point, the newest of equals."""
    entries = enumerate(m for m in table() if target.is_relative_to(m.mount_point))
    return max(entries, key=lambda item: (len(item[1].mount_point.parts), item[0]))[1]


def unmount_below(root: Path) -> Iterator[Path]:
    """Unmount all at or below `root`, lazily where it is busy, and yield what was unmounted."""
    for point in below(root):
        try:
            unmount(point)
        except OSError:
            unmount(point, lazy=True)
        yield point
