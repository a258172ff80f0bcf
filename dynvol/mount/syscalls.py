"""mount(2), umount2(2) and their modern relatives, through ctypes.

A call takes microseconds this way, against milliseconds for mount(8), needs no program in the image, and leaves no helper
behind that could hang. ctypes releases the interpreter lock around each call, so one that blocks holds up its own thread
only. Every refusal becomes a `MountError` that spells the call out.

`open_tree`, `move_mount` (Linux 5.2) and `mount_setattr` (5.12) let a mount be put together out of sight and attached in one
step; `openat2` (5.6) resolves a path under rules. `has_mount_api` and `has_openat2` say whether they may be used; callers
hold the fallbacks. Not here: deciding anything.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from enum import IntFlag
from typing import Final

from dynvol.mount.errors import MountError, NotMounted

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.syscall.restype = ctypes.c_long

# The numbers are the same on every architecture that joined the unified table (all that Kubernetes runs on).
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOVE_MOUNT_BENEATH: Final = 0x200
_MOUNT_ATTR_RDONLY: Final = 1
_MOUNT_ATTR_NOSUID: Final = 2
_MOUNT_ATTR_NODEV: Final = 4
_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1
_MNT_FORCE: Final = 1
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_CLONE_NEWNS: Final = 0x20000


class MountFlag(IntFlag):
    """Flags of mount(2), from linux/mount.h."""

    NONE = 0
    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    NOSYMFOLLOW = 256
    NOATIME = 1024
    NODIRATIME = 2048
    BIND = 4096
    MOVE = 8192
    REC = 16384
    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20
    RELATIME = 1 << 21


class Resolve(IntFlag):
    """Rules of openat2(2), from linux/openat2.h."""

    NO_XDEV = 1
    NO_MAGICLINKS = 2
    NO_SYMLINKS = 4
    BENEATH = 8
    IN_ROOT = 16


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def mount(
    target: str,
    *,
    source: str = "none",
    fstype: str | None = None,
    flags: MountFlag = MountFlag.NONE,
    data: str | None = None,
) -> None:
    """mount(2). `data` is kept out of the error: it may hold what no log should."""
    result = _libc.mount(_bytes(source), _bytes(target), _maybe(fstype), int(flags), _maybe(data))
    if result != 0:
        kind = f", type={fstype!r}" if fstype else ""
        raise MountError.of(ctypes.get_errno(), f"mount(source={source!r}, target={target!r}{kind}, {_words(flags)})")


def unmount(target: str, *, lazily: bool = False, forcibly: bool = False) -> None:
    """umount2(2), never through a symbolic link. Forcibly: what waits for a server or a daemon fails, even if the mount stays.

    EINVAL (no mount point) and ENOENT (no such path) are `NotMounted`: whoever unmounts wants exactly that state.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazily else 0) | (_MNT_FORCE if forcibly else 0)
    if _libc.umount2(_bytes(target), flags) == 0:
        return
    words = f"{'MNT_FORCE|' if forcibly else ''}{'MNT_DETACH|' if lazily else ''}UMOUNT_NOFOLLOW"
    number, call = ctypes.get_errno(), f"umount2({target!r}, {words})"
    raise NotMounted(number, call) if number in (errno.EINVAL, errno.ENOENT) else MountError.of(number, call)


def open_tree(place: str | int, *, recursive: bool = False) -> int:
    """A detached copy of the mount at a path, or of what a descriptor has open of one, held by the returned descriptor alone until
    `move_mount` attaches it."""
    directory, path = (_AT_FDCWD, place) if isinstance(place, str) else (place, "")
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_SYMLINK_NOFOLLOW | (_AT_RECURSIVE if recursive else 0)
    flags |= 0 if path else _AT_EMPTY_PATH
    return _syscall(_SYS_OPEN_TREE, directory, path, flags, call=f"open_tree({place!r}, clone, recursive={recursive})")


def set_attributes(
    tree: int,
    *,
    read_only: bool = False,
    powerless: bool = False,
    propagation: MountFlag = MountFlag.NONE,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) on the mount that a descriptor of `open_tree` holds. `powerless`: no set-user-ID bits, no devices."""
    flags = (_MOUNT_ATTR_RDONLY if read_only else 0) | (_MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV if powerless else 0)
    attributes = _MountAttr(set=flags, propagation=int(propagation))
    _syscall(
        _SYS_MOUNT_SETATTR,
        tree,
        "",
        _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0),
        attributes,
        call=f"mount_setattr(read_only={read_only}, powerless={powerless}, {_words(propagation)}, recursive={recursive})",
    )


def move_mount(tree: int, target: str, *, beneath: bool = False) -> None:
    """Attach a detached tree at `target`, in one step, and with it to all that `target` propagates to.

    `beneath` (Linux 6.5): under the mount that is on top there, which EINVAL says is not possible, or not known.
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (_MOVE_MOUNT_BENEATH if beneath else 0)
    _syscall(_SYS_MOVE_MOUNT, tree, "", _AT_FDCWD, target, flags, call=f"move_mount(to={target!r}, beneath={beneath})")


def detached_filesystem(fstype: str) -> int:
    """The root of a file system that is mounted nowhere: a descriptor to open files below."""
    context = _syscall(_SYS_FSOPEN, fstype, _FSOPEN_CLOEXEC, call=f"fsopen({fstype!r})")
    try:
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, 0, 0, 0, call=f"fsconfig({fstype!r}, create)")
        return _syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0, call=f"fsmount({fstype!r})")
    finally:
        os.close(context)


def openat2(directory: int, path: str, *, flags: int, resolve: Resolve) -> int:
    """openat2(2). Raises a plain OSError: its errors are about the path, which the caller can name."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, resolve=int(resolve))
    fd: int = _libc.syscall(_long(_SYS_OPENAT2), _long(directory), _bytes(path), ctypes.byref(how), _long(ctypes.sizeof(how)))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd


def unshare_mounts() -> None:
    """Give the calling process a copy of its mount namespace (and of its root and working directory)."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise MountError.of(ctypes.get_errno(), "unshare(CLONE_NEWNS)")


def enter_mounts(namespace: int) -> None:
    """Join the mount namespace of a descriptor of /proc/<pid>/ns/mnt. Only a process with a single thread may."""
    if _libc.setns(namespace, _CLONE_NEWNS) != 0:
        raise MountError.of(ctypes.get_errno(), "setns(CLONE_NEWNS)")


def sync_filesystem(directory: int) -> None:
    """syncfs(2): writes what the file system of an open directory has in memory to its disk. Takes as long as that takes."""
    if _libc.syncfs(directory) != 0:
        raise MountError.of(ctypes.get_errno(), "syncfs")


@functools.cache
def has_mount_api() -> bool:
    """Whether open_tree, move_mount and mount_setattr are there. Old container runtimes answer EPERM to what they do not know.

    A mount_setattr with no attributes at all is EINVAL where the call exists.
    """
    number = _errno_of(_SYS_MOUNT_SETATTR, _AT_FDCWD, "", 0, 0, 0)
    return number not in (errno.ENOSYS, errno.EPERM)


@functools.cache
def has_openat2() -> bool:
    """Whether openat2 is there: with no argument structure it is EINVAL."""
    return _errno_of(_SYS_OPENAT2, _AT_FDCWD, "/", 0, 0) not in (errno.ENOSYS, errno.EPERM)


def _syscall(number: int, *arguments: int | str | ctypes.Structure, call: str) -> int:
    converted: list[object] = []
    for argument in arguments:
        match argument:
            case int():
                converted.append(_long(argument))
            case str():
                converted.append(_bytes(argument))
            case ctypes.Structure():
                converted += [ctypes.byref(argument), _long(ctypes.sizeof(argument))]
    result: int = _libc.syscall(_long(number), *converted)
    if result < 0:
        raise MountError.of(ctypes.get_errno(), call)
    return result


def _errno_of(number: int, *arguments: int | str) -> int:
    try:
        _syscall(number, *arguments, call="probe")
    except MountError as error:
        return error.errno or 0
    return 0


def _words(flags: MountFlag) -> str:
    names = [f"MS_{flag.name}" for flag in flags]
    return "|".join(names) or "no flags"


def _bytes(text: str) -> bytes:
    return os.fsencode(text)


def _maybe(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _long(value: int) -> ctypes.c_long:
    return ctypes.c_long(value)
