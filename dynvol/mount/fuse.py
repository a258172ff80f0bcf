"""What FUSE daemons, and mounters of NFS, leave behind when they die, and how it is cleared without touching it.

A mount outlives its daemon. Everything that looks into it then fails with ENOTCONN or, while the connection is still held
open by a daemon that hangs, waits. Two things help: aborting the connection, which makes every waiting call return, and a
lazy unmount, which needs no answer. Neither looks the mount up.

Whether a daemon is dead is not decided here. A lazy unmount under a living daemon, with programs still writing, sends what
they write next to the bare directory below.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from dynvol.mount import mountinfo, nfs, paths, syscalls
from dynvol.mount.errors import MountError, NotMounted
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.paths import Obstacle
from dynvol.mount.syscalls import MountFlag

CONNECTIONS: Final = "/sys/fs/fuse/connections"
_ROUNDS: Final = 64


@dataclass(frozen=True, slots=True)
class ClearedMount:
    """A mount that was taken away. `aborted` says whether its connection was found, and ended."""

    path: str
    source: str
    connection: int
    aborted: bool


@dataclass(frozen=True, slots=True)
class Clearing:
    """`left` names mounts of the same dead file systems that still show elsewhere in this namespace."""

    cleared: tuple[ClearedMount, ...]
    left: tuple[Obstacle, ...]


def open_device(mountpoint: str, *, source: str, read_only: bool) -> int:
    """Mounts a FUSE file system that no one serves yet. Gives the descriptor of the device for whoever will; it closes on exec.

    Raises MountError, and OSError where there is no FUSE. What the kernel is asked to do is what libfuse asks for: all users may
    look, and owner and mode are held to.
    """
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        flags = MountFlag.NOSUID | MountFlag.NODEV | (MountFlag.RDONLY if read_only else MountFlag.NONE)
        syscalls.mount(mountpoint, source=source, fstype="fuse", flags=flags, data=options)
    except BaseException:
        os.close(device)
        raise
    return device


def mounts_below(table: MountTable, root: str) -> tuple[Mount, ...]:
    """The mounts of clients at and below `root` that can be unmounted without a look-up through another one: what is mounted
    inside one goes with it."""
    found = [m for m in (*table.below(root), *reversed(table.stack(root))) if _is_a_clients(m) and table.at(m.path) == m]
    return tuple(m for m in found if not _lies_inside(table, m, found))


def clear_dead(root: str, *, only: Collection[str] | None = None) -> Clearing:
    """Abort and lazily unmount the mounts of clients at and below `root`, or those of them at the paths in `only`. Idempotent.

    The caller knows that their daemons are gone, or beyond help. Mounts that propagated from there, into containers too, go
    with them. Connection numbers are remembered first: after the unmount nothing tells them any more.
    """
    place = paths.canonical(root)
    table = mountinfo.read()
    cleared: dict[int, ClearedMount] = {}
    for _ in range(_ROUNDS):
        dead = [m for m in mounts_below(table, place) if only is None or m.path in only]
        if not dead:
            break
        for mount in dead:
            cleared[mount.id] = ClearedMount(mount.path, mount.source, mount.minor, _clear(mount))
        table = mountinfo.read()
    devices = {(0, mount.connection) for mount in cleared.values()}
    left = (m for m in table if m.device in devices)
    return Clearing(tuple(cleared.values()), tuple(Obstacle(m.path, f"{m.label} still shows here") for m in left))


def _is_a_clients(mount: Mount) -> bool:
    """NFS may also be what Kubernetes mounts."""
    return mount.is_fuse or (mount.is_nfs and mount.name.startswith(nfs.OURS))


def _clear(mount: Mount) -> bool:
    """Whether there was a connection, and it was ended."""
    if mount.is_nfs:
        nfs.take_away(mount.path)
        return False
    aborted = abort_connection(mount.minor)
    with contextlib.suppress(NotMounted):
        syscalls.unmount(mount.path, lazily=True)
    return aborted


def abort_connection(connection: int) -> bool:
    """End a FUSE connection: all that waits for its daemon returns. False if there is none of that number (any more).

    The number is the minor device number of the mount. The control file system is often not mounted in a container; then it
    is opened without being mounted anywhere.
    """
    with _control_file(connection, "abort", os.O_WRONLY) as abort:
        return abort is not None and os.write(abort, b"1") > 0


def requests_waiting(connection: int) -> int | None:
    """How many requests a FUSE daemon has not answered yet; None if there is no such connection, or no way to know."""
    with _control_file(connection, "waiting", os.O_RDONLY) as waiting:
        return None if waiting is None else int(os.read(waiting, 32))


@contextlib.contextmanager
def _control_file(connection: int, name: str, flags: int) -> Iterator[int | None]:
    """A descriptor of one of a connection's files, None where there is none."""
    with _control_directory() as directory:
        try:
            file = None if directory is None else os.open(f"{connection}/{name}", flags | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            file = None
        try:
            yield file
        finally:
            if file is not None:
                os.close(file)


@contextlib.contextmanager
def _control_directory() -> Iterator[int | None]:
    """A descriptor of the root of fusectl, None where the kernel has none or does not let us."""
    mounted = mountinfo.read().at(CONNECTIONS)
    try:
        if mounted is not None and mounted.fstype == "fusectl":
            directory = os.open(CONNECTIONS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            directory = syscalls.detached_filesystem("fusectl")
    except MountError:
        yield None
        return
    try:
        yield directory
    finally:
        os.close(directory)


def _lies_inside(table: MountTable, mount: Mount, others: Collection[Mount]) -> bool:
    ids = {m.id for m in others if m.path != mount.path}
    parent = table.parent_of(mount)
    while parent is not None:
        if parent.id in ids:
            return True
        parent = table.parent_of(parent)
    return False
