"""Directories below a root, made, opened and removed safely.

Users choose mountpoints, and programs in their pods may be hostile; both end up in paths that a privileged process works on.
So a path below a root is never handed to the kernel as it is. It is split, checked, and walked one component at a time on
descriptors: no symbolic link is followed, and no mount is entered but one of the root's own file system. Where the table
shows a foreign mount the walk stops before it looks; where the table shows none, the kernel is told to refuse one
(openat2's RESOLVE_NO_XDEV, or on Linux before 5.6 a comparison of mount ids), so that a mount that arrives in between is
refused as well.

Removing is rmdir(2) and nothing else: what is not empty, or is not a directory, stays and is named.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

from dynvol.mount import mountinfo, syscalls
from dynvol.mount.errors import FileInTheWay, InTheWay, MountInTheWay, SymlinkInTheWay, UnsafePath
from dynvol.mount.mountinfo import MountTable
from dynvol.mount.syscalls import Resolve

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_MAX: Final = 255
_DEEPEST: Final = 128
"""Names. A walk holds a descriptor for each, and what is made must not be deeper than what is removed."""
_DEEPEST_TREE: Final = 256


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that was left in place, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal did. `left` is empty when nothing is in the way any more."""

    removed: tuple[str, ...]
    left: tuple[Obstacle, ...]


def components(relative: str) -> tuple[str, ...]:
    """The components of a normal relative path. Raises UnsafePath for anything else, the empty path included."""
    parts = tuple(relative.split("/"))
    if len(parts) > _DEEPEST:
        raise UnsafePath(f"{relative[:32]!r}… is more than {_DEEPEST} names deep")
    for part in parts:
        if part in ("", ".", ".."):
            raise UnsafePath(f"{relative!r} is not a normal relative path: it must not hold an empty component, '.' or '..'")
        if "\0" in part:
            raise UnsafePath(f"{relative!r} holds a NUL byte")
        if len(os.fsencode(part)) > _NAME_MAX:
            raise UnsafePath(f"a component of the path is longer than {_NAME_MAX} bytes: {part[:32]!r}…")
    return parts


def canonical(path: str) -> str:
    """`path` with the symbolic links of its *parent* resolved, comparable with paths of the mount table.

    The last component is left alone: it may be a mount that must not be looked at.
    """
    if not path.startswith("/") or path.startswith("//") or path == "/" or os.path.normpath(path) != path:
        raise UnsafePath(f"{path!r} is not an absolute, normal path below the root directory")
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name)


def open_below(root: str, relative: str, *, table: MountTable | None = None) -> int:
    """An O_PATH descriptor of the directory `relative` below `root`.

    Raises FileNotFoundError if it is not there, InTheWay if something else is, UnsafePath if the path is not normal.
    """
    with closing(_Walk(root, components(relative), table or mountinfo.read())) as walk:
        return os.dup(walk.descend())


def make_directory_below(root: str, relative: str, *, mode: int = 0o755, table: MountTable | None = None) -> tuple[str, ...]:
    """Make `relative` below `root` with all directories on the way. Returns the paths that were not there before.

    `mode` is that of each new directory, whatever the umask. What exists keeps its own.
    """
    with closing(_Walk(root, components(relative), table or mountinfo.read())) as walk:
        walk.descend(make_mode=mode)
        return tuple(walk.made)


def remove_empty_directories_below(root: str, relative: str, *, table: MountTable | None = None) -> Removal:
    """rmdir `relative`, then its parents, as long as they are empty, up to but without `root`.

    Stops at the first thing that stays: a mount point, a directory that is not empty, something that is no directory. What
    is not there counts as removed before.
    """
    table = table or mountinfo.read()
    parts = components(relative)
    try:
        with closing(_Walk(root, parts, table)) as walk:
            parents = walk.descend_as_far_as_possible()
            return _rmdir_upwards(root, parts[: len(parents)], parents, table=table)
    except InTheWay as problem:
        return Removal((), (Obstacle(problem.path, str(problem)),))


def remove_empty_tree(path: str, *, table: MountTable | None = None) -> Removal:
    """rmdir all directories at and below `path`, deepest first; files and mounts stay, and with them what leads there.

    Nothing is touched while the table shows any mount at or below `path`.
    """
    table = table or mountinfo.read()
    mounts = [*table.below(path), *table.stack(path)]
    if mounts:
        return Removal((), tuple(Obstacle(m.path, f"{m.label} is mounted here") for m in mounts))
    parent, name = os.path.split(path)
    removed: list[str] = []
    left: list[Obstacle] = []
    try:
        above = os.open(parent, _DIRECTORY)
    except FileNotFoundError:
        return Removal((), ())
    try:
        _remove_tree(above, name, path, removed=removed, left=left)
    finally:
        os.close(above)
    return Removal(tuple(removed), tuple(left))


class _Walk:
    """Descriptors of `root` and of each component below it, opened in turn."""

    def __init__(self, root: str, parts: Sequence[str], table: MountTable) -> None:
        self._root = root
        self._parts = parts
        self._table = table
        self._root_mount = table.containing(root)
        self._open: list[int] = []
        self.made: list[str] = []

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def descend(self, *, make_mode: int | None = None) -> int:
        """To the last component; makes what is missing if given a mode."""
        self._open.append(_open_root(self._root))
        path = self._root
        for part in self._parts:
            path = f"{path.rstrip('/')}/{part}"
            self._open.append(self._step(self._open[-1], part, path, make_mode=make_mode))
        return self._open[-1]

    def descend_as_far_as_possible(self) -> list[int]:
        """The descriptors of the parents of all components that exist: as many as components do."""
        with suppress(FileNotFoundError):
            self.descend()
        return self._open[:-1]

    def _step(self, parent: int, name: str, path: str, *, make_mode: int | None) -> int:
        same_mount = not self._is_own_mount(path)
        if make_mode is not None and _make_directory(parent, name, make_mode, path=path, same_mount=same_mount):
            self.made.append(path)
        return _open_component(parent, name, path=path, same_mount=same_mount)

    def _is_own_mount(self, path: str) -> bool:
        """Whether `path` is a bind mount of the root's own file system, which may be entered."""
        mount = self._table.at(path)
        if mount is None:
            return False
        if self._root_mount is None or mount.device != self._root_mount.device:
            raise MountInTheWay(path, f"{mount.label} is mounted here, and is not entered")
        return True


def _open_root(root: str) -> int:
    try:
        return os.open(root, _DIRECTORY)
    except OSError as error:
        raise _named(error, root) from error


def _open_component(parent: int, name: str, *, path: str, same_mount: bool) -> int:
    """One step down. Without openat2 a mount is recognised by its id, read from procfs: an fstat would ask its daemon."""
    try:
        if syscalls.has_openat2():
            rules = Resolve.NO_SYMLINKS | Resolve.NO_MAGICLINKS | Resolve.IN_ROOT
            if same_mount:
                rules |= Resolve.NO_XDEV
            return syscalls.openat2(parent, name, flags=_DIRECTORY, resolve=rules)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        raise _named(error, path, parent=parent, name=name) from error
    if same_mount and mount_id(fd) != mount_id(parent):
        os.close(fd)
        raise MountInTheWay(path, "a mount appeared here while the path was resolved")
    return fd


def _make_directory(parent: int, name: str, mode: int, *, path: str, same_mount: bool) -> bool:
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return False
    fd = _open_component(parent, name, path=path, same_mount=same_mount)
    try:
        # A descriptor of O_PATH takes no fchmod; its name in procfs leads to the same directory, whatever its path is now.
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
    return True


def _rmdir_upwards(root: str, parts: Sequence[str], parents: Sequence[int], *, table: MountTable) -> Removal:
    removed: list[str] = []
    for depth in range(len(parts), 0, -1):
        path = "/".join((root.rstrip("/"), *parts[:depth]))
        obstacle = _rmdir(parents[depth - 1], parts[depth - 1], path, table=table)
        if obstacle is not None:
            return Removal(tuple(removed), (obstacle,))
        removed.append(path)
    return Removal(tuple(removed), ())


def _rmdir(parent: int, name: str, path: str, *, table: MountTable | None = None) -> Obstacle | None:
    mount = table.at(path) if table is not None else None
    if mount is not None:
        return Obstacle(path, f"{mount.label} is mounted here")
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Obstacle(path, _reason(error))
    return None


def _remove_tree(parent: int, name: str, path: str, *, removed: list[str], left: list[Obstacle], depth: int = 0) -> bool:
    """rmdir `name` and, before it, the directories below. True if it is gone.

    The mount table was seen to be empty there; that nothing is entered which was mounted since, openat2 sees to.
    """
    try:
        directory = _open_component(parent, name, path=path, same_mount=True)
    except FileNotFoundError:
        return True
    except InTheWay as problem:
        left.append(Obstacle(path, str(problem)))
        return False
    try:
        children = _names(directory) if depth < _DEEPEST_TREE else []
        gone = [_remove_tree(directory, c, f"{path}/{c}", removed=removed, left=left, depth=depth + 1) for c in children]
    finally:
        os.close(directory)
    if not all(gone):
        return False
    obstacle = _rmdir(parent, name, path)
    if obstacle is not None:
        left.append(obstacle)
        return False
    removed.append(path)
    return True


def _names(directory: int) -> list[str]:
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.listdir(readable)
    finally:
        os.close(readable)


def mount_id(fd: int) -> int:
    """The id, in the mount table, of the mount that a descriptor is in. Asks the kernel only, no file system."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        for line in info:
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
    raise OSError(errno.EIO, "procfs shows no mnt_id", f"/proc/self/fdinfo/{fd}")


def _named(error: OSError, path: str, *, parent: int | None = None, name: str = "") -> Exception:
    """The error of an open as one of ours, where it is about what is in the way."""
    match error.errno:
        case errno.ELOOP:
            return SymlinkInTheWay(path)
        case errno.ENOTDIR:
            # O_DIRECTORY is checked before O_NOFOLLOW, so a link to anything may show as "not a directory".
            return SymlinkInTheWay(path) if _is_symlink(parent, name, path) else FileInTheWay(path)
        case errno.EXDEV:
            return MountInTheWay(path, "a mount appeared here while the path was resolved")
    return OSError(error.errno, os.strerror(error.errno or 0), path)


def _is_symlink(parent: int | None, name: str, path: str) -> bool:
    try:
        os.readlink(path) if parent is None else os.readlink(name, dir_fd=parent)
    except OSError:
        return False
    return True


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOTEMPTY | errno.EEXIST:
            return "the directory is not empty"
        case errno.ENOTDIR:
            return "is not a directory"
        case errno.EBUSY:
            return "is a mount point, or in use by the kernel"
    return os.strerror(error.errno or 0)
