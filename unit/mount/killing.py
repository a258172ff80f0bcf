"""A process that is killed at its nth system call, by the kernel's own account of them.

Wrapping functions finds the calls that somebody thought of, and an exception runs `finally` blocks that SIGKILL never runs. Here a
seccomp filter makes the kernel hold each call that changes files or mounts, in whatever thread, library or child it is made, until
the supervisor has counted it and lets it go on; at the one that was asked for it kills instead (seccomp_unotify(2); Linux 5.5).

A call that the process was killed *before* has not happened, and the one before that has: so running through all numbers leaves
every state that there is between two calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import platform
import select
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from dynvol.mount import syscalls
from unit.mount.namespaces import die_with_parent

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_UNIFIED: Final = {428: "open_tree", 429: "move_mount", 432: "fsmount", 442: "mount_setattr"}
_X86: Final = {
    **dict.fromkeys((83, 258), "mkdir"),
    **dict.fromkeys((84, 87, 263), "remove"),
    **dict.fromkeys((82, 264, 316), "rename"),
    **dict.fromkeys((90, 91, 268), "chmod"),
    **dict.fromkeys((86, 88, 265, 266), "link"),
    165: "mount",
    166: "umount",
}
_ARM: Final = {
    34: "mkdir",
    35: "remove",
    **dict.fromkeys((38, 276), "rename"),
    **dict.fromkeys((52, 53), "chmod"),
    **dict.fromkeys((36, 37), "link"),
    40: "mount",
    39: "umount",
}
_MACHINES: Final = {"x86_64": (0xC000003E, 317, 257, _X86), "aarch64": (0xC00000B7, 277, 56, _ARM)}
"""Machine → its AUDIT_ARCH, the numbers of seccomp(2) and openat(2), and of the calls that are held, with what they do."""
_ARCH, _SECCOMP, _OPENAT, _HELD = _MACHINES[platform.machine()]
_CALLS: Final = _HELD | _UNIFIED | {_OPENAT: "create"}

_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RET_ALLOW, _RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_CLONE_NEWPID = 0x20000000


class Failed(AssertionError):
    """The process ended with an error of its own, which it has printed."""


def killed_before(call: int, work: Callable[[], object], *, contained: bool = False, timeout: float = 60.0) -> str | None:
    """Run `work` in a forked child and kill it just before its system call number `call`, from 0. What that call was to do;
    None if it ended before it made so many.

    `contained`: as process 1 of a container, in namespaces of mounts and processes of its own; what it started is killed with it.
    """
    here, there = socket.socketpair()
    with here:
        pid = os.fork()
        if pid == 0:
            here.close()
            _be_the_victim(there, work, contained=contained)
        there.close()
        descriptors: list[int] = []
        try:
            here.settimeout(timeout)
            _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
            if not descriptors:
                raise Failed("it ended before it began")
            return _supervise(here, descriptors[0], call, timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for listener in descriptors:
                _until_nobody_is_left(listener)
                os.close(listener)


def at_each_call(
    work: Callable[[], object], *, before: Callable[[], object] = lambda: None, contained: bool = False
) -> Iterator[str]:
    """Runs `before`, and kills `work` just before its next system call, until it gets through. Yields what that was to do."""
    for call in itertools.count():
        before()
        name = killed_before(call, work, contained=contained)
        if name is None:
            return
        yield name


def _be_the_victim(supervisor: socket.socket, work: Callable[[], object], *, contained: bool) -> NoReturn:
    code = 1
    try:
        die_with_parent()
        if contained:
            syscalls.unshare_mounts()
            assert _libc.unshare(_CLONE_NEWPID) == 0, os.strerror(ctypes.get_errno())
            if (first := os.fork()) != 0:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)
            die_with_parent()
            syscalls.mount("/proc", source="proc", fstype="proc")
        listener = _install()
        socket.send_fds(supervisor, [b"f"], [listener])
        os.close(listener)
        work()
        supervisor.send(b"e")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _supervise(victim: socket.socket, listener: int, call: int, *, timeout: float) -> str | None:
    """Lets calls go on until it is time. The socket's end is the victim's."""
    deadline = time.monotonic() + timeout
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(victim, select.POLLIN | select.POLLHUP)
    while ready := dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000)):
        if ready.get(listener, 0) & select.POLLIN:
            if call == 0:
                return _held(listener)
            call -= _let_go_on(listener)
        elif victim.fileno() in ready:
            if victim.recv(1) != b"e":
                raise Failed("it ended with an error; see above")
            return None
    raise Failed(f"it did not end within {timeout} s")


def _until_nobody_is_left(listener: int) -> None:
    """Until threads, children and all who inherited the filter are dead. Before that the listener must not be closed: a call
    that is held would fail, and its process go on."""
    poll = select.poll()
    poll.register(listener, 0)
    if not poll.poll(20_000):
        raise Failed("it cannot be killed")


def _held(listener: int) -> str:
    """What the call does that is held. It is never made: its process is killed meanwhile."""
    held = _receive(listener)
    return _CALLS[held[1]] if held is not None else "a call that was given up"


def _let_go_on(listener: int) -> int:
    held = _receive(listener)
    if held is None:
        return 0
    try:
        fcntl.ioctl(listener, _SEND, struct.pack("<QqiI", held[0], 0, 0, _CONTINUE))
    except OSError as error:
        if error.errno != errno.ENOENT:  # It was killed by somebody else.
            raise
    return 1


def _receive(listener: int) -> tuple[int, int] | None:
    """The id of the call that is held, and its number."""
    notification = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECEIVE, notification)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identity, _pid, _flags, number = struct.unpack_from("<QIIi", notification)
    return identity, number


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _install() -> int:
    """The descriptor through which held calls are seen."""
    code = _filter()
    program = _Program(len(code) // 8, code)
    listener: int = _libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def _filter() -> bytes:
    """Classic BPF over `struct seccomp_data`: offset 0 the number, 4 the architecture, 32 the low half of the third argument."""
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    numbers = [number for number in _CALLS if number != _OPENAT]
    lines = [(load, 0, 0, 4), (equal, 1, 0, _ARCH), (answer, 0, 0, _RET_ALLOW), (load, 0, 0, 0)]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        lines.append((equal, left + 3, 0, number))
    lines += [(equal, 0, 2, _OPENAT), (load, 0, 0, 32), (any_bit, 1, 0, os.O_CREAT)]
    lines += [(answer, 0, 0, _RET_ALLOW), (answer, 0, 0, _RET_USER_NOTIF)]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
