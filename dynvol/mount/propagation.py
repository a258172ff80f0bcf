"""Peer groups and bind mounts.

Each call reads the mount table first and does nothing where the table already shows its result, so all may be repeated.

A bind is put together out of sight, with its propagation and its read-only flag, and attached in one step. There is no
moment at which it is in place and still writable, or still the peer of what it was bound from; and a process that is killed
half way leaves nothing. On Linux before 5.12 the same is reached by building the bind inside a private tmpfs and moving it.

Why the peer group must be right *before* the mount is attached: a bind of a shared mount is a peer of it, and attaching
below a shared mount sends copies to other namespaces. What is changed afterwards no longer reaches those copies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final

from dynvol.mount import mountinfo, syscalls
from dynvol.mount.errors import MountError, MountInTheWay, NotMounted, WrongMount
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.syscalls import MountFlag


class Propagation(Enum):
    """What a mount shares with others. Values are the flags of mount(2)."""

    SHARED = MountFlag.SHARED
    PRIVATE = MountFlag.PRIVATE
    SLAVE = MountFlag.SLAVE
    UNBINDABLE = MountFlag.UNBINDABLE


OWN_PEER_GROUP: Final = (Propagation.PRIVATE, Propagation.SHARED)
"""Leave whatever group the source is in, then found a new one."""
RECEIVING: Final = (Propagation.SLAVE,)
"""Receive from the source's group and send nothing back."""

_STAGE: Final = "dynvol-stage-"
_stage_lock: Final = threading.Lock()

_POWERLESS: Final = MountFlag.NOSUID | MountFlag.NODEV

# A remount sets all flags of a mount anew, so those that it has must be named again.
_FLAG_OF_OPTION: Final = {
    "nosuid": MountFlag.NOSUID,
    "nodev": MountFlag.NODEV,
    "noexec": MountFlag.NOEXEC,
    "nosymfollow": MountFlag.NOSYMFOLLOW,
    "noatime": MountFlag.NOATIME,
    "nodiratime": MountFlag.NODIRATIME,
    "relatime": MountFlag.RELATIME,
}


def attach_bind(
    source: str | int,
    target: str,
    *,
    propagation: Sequence[Propagation] = (),
    read_only: bool = False,
    powerless: bool = False,
    recursive: bool = False,
    beneath: bool = False,
) -> None:
    """Bind `source`, a path or a descriptor of O_PATH, to `target` in one step, whatever is there. Propagation changes apply in
    order, to all that is bound; read-only, and powerless (no set-user-ID bits, no devices), to the top mount alone.

    With `beneath` it comes under the mount that shows at `target`, here and wherever that one propagated to, and shows once that
    is unmounted. Linux has it since 6.5; before, it is refused (MountError).
    """
    if not syscalls.has_mount_api():
        if beneath:
            raise MountError.of(errno.ENOSYS, f"mount beneath {target!r}")
        flags = (MountFlag.RDONLY if read_only else MountFlag.NONE) | (_POWERLESS if powerless else MountFlag.NONE)
        path = source if isinstance(source, str) else f"/proc/self/fd/{source}"
        _attach_from_stage(path, target, propagation=propagation, flags=flags, recursive=recursive)
        return
    tree = syscalls.open_tree(source, recursive=recursive)
    try:
        for kind in propagation:
            syscalls.set_attributes(tree, propagation=kind.value, recursive=recursive)
        if read_only or powerless:
            syscalls.set_attributes(tree, read_only=read_only, powerless=powerless)
        syscalls.move_mount(tree, target, beneath=beneath)
    finally:
        os.close(tree)


def clear_abandoned_stages() -> None:
    """Remove what a process that was killed while it built a bind left on an old kernel: its stage would go on receiving."""
    if not syscalls.has_mount_api():
        with _stage_lock:
            _clear_abandoned_stages()


def bind(source: str, target: str, *, read_only: bool = False, recursive: bool = False) -> bool:
    """Bind `source` to `target` once. True if it was attached now, False if it was there.

    Raises WrongMount if `target` holds a mount of something else, or the right one with the wrong read-only flag.
    """
    table = mountinfo.read()
    present = table.at(target)
    if present is None or (source == target and table.covered_identity(present) != (present.device, present.root)):
        attach_bind(source, target, read_only=read_only, recursive=recursive)
        return True
    if (present.device, present.root) != table.identity(source):
        raise WrongMount(target, f"holds {present.label}, not a bind of {source}; unmount it first")
    if present.read_only != read_only:
        raise WrongMount(target, f"is bound {_writability(present.read_only)}, wanted {_writability(read_only)}")
    return False


def make_shared(path: str, *, recursive: bool = False) -> bool:
    """Found a peer group, or stay in the one there is. True if anything was changed; so for those below."""
    return _change(path, Propagation.SHARED, recursive=recursive)


def make_slave(path: str, *, recursive: bool = False) -> bool:
    """Receive only. A mount that is in no peer group has none to receive from, and stays as it is."""
    return _change(path, Propagation.SLAVE, recursive=recursive)


def make_private(path: str, *, recursive: bool = False) -> bool:
    """Neither receive nor send."""
    return _change(path, Propagation.PRIVATE, recursive=recursive)


def make_unbindable(path: str, *, recursive: bool = False) -> bool:
    """Private, and not to be bound elsewhere."""
    return _change(path, Propagation.UNBINDABLE, recursive=recursive)


def already(mount: Mount, kind: Propagation) -> bool:
    """Whether a change to `kind` would leave `mount` as it is."""
    match kind:
        case Propagation.SHARED:
            return mount.peer_group is not None
        case Propagation.SLAVE:
            return mount.peer_group is None
        case Propagation.PRIVATE:
            return mount.peer_group is None and mount.master is None and not mount.unbindable
        case Propagation.UNBINDABLE:
            return mount.unbindable


def _change(path: str, kind: Propagation, *, recursive: bool) -> bool:
    table = mountinfo.read()
    mount = table.at(path)
    if mount is None:
        raise NotMounted(errno.EINVAL, f"change of the propagation of {path!r}")
    affected = (mount, *_descendants(table, mount)) if recursive else (mount,)
    if all(already(each, kind) for each in affected):
        return False
    syscalls.mount(path, flags=kind.value | (MountFlag.REC if recursive else MountFlag.NONE))
    return True


def _descendants(table: MountTable, mount: Mount) -> Iterator[Mount]:
    """What a recursive change reaches: by parent, which a mount that is merely hidden below the path is not."""
    reached = {mount.id}
    for each in reversed(table.below(mount.path)):
        if each.parent in reached:
            reached.add(each.id)
            yield each


def _attach_from_stage(source: str, target: str, *, propagation: Sequence[Propagation], flags: MountFlag, recursive: bool) -> None:
    rec = MountFlag.REC if recursive else MountFlag.NONE
    with _stage_lock, _stage() as place:
        syscalls.mount(place, source=source, flags=MountFlag.BIND | rec)
        for kind in propagation:
            syscalls.mount(place, flags=kind.value | rec)
        if flags:
            syscalls.mount(place, flags=MountFlag.BIND | MountFlag.REMOUNT | flags | _flags_at(place))
        syscalls.mount(target, source=place, flags=MountFlag.MOVE)


@contextlib.contextmanager
def _stage() -> Iterator[str]:
    """A directory inside a private mount: mount(MS_MOVE) takes nothing away from a shared one."""
    import tempfile  # draws in hashlib and compression, megabytes that the mounter of each pod would pay for an old kernel

    base = os.path.realpath(tempfile.mkdtemp(prefix="dynvol-stage-"))
    try:
        syscalls.mount(base, source=f"{_STAGE}{os.getpid()}", fstype="tmpfs", flags=MountFlag.NOSUID | MountFlag.NODEV)
        try:
            syscalls.mount(base, flags=MountFlag.PRIVATE)
            place = os.path.join(base, "tree")
            os.mkdir(place, 0o700)
            yield place
        finally:
            syscalls.unmount(base, lazily=True)
    finally:
        os.rmdir(base)


def _clear_abandoned_stages() -> None:
    """A process with our number that is not us is dead: alone in a container, the node process is number 1 in each of its lives."""
    table = mountinfo.read()
    for mount in table:
        if mount.fstype != "tmpfs" or not mount.source.startswith(_STAGE) or table.at(mount.path) != mount:
            continue
        owner = mount.source.removeprefix(_STAGE)
        if owner == str(os.getpid()) or not os.path.exists(f"/proc/{owner}"):
            syscalls.unmount(mount.path, lazily=True)
            os.rmdir(mount.path)


def _flags_at(path: str) -> MountFlag:
    mount = mountinfo.read().at(path)
    if mount is None:
        raise MountInTheWay(path, "the staged bind is hidden by another mount")
    flags = MountFlag.NONE
    for option in mount.options.split(","):
        flags |= _FLAG_OF_OPTION.get(option, MountFlag.NONE)
    return flags


def _writability(read_only: bool) -> str:
    return "read-only" if read_only else "writable"
