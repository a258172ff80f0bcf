"""Mount namespaces for tests: work is run inside one by a forked child, and no process needs to live there.

A test marked `root` runs in a namespace of mounts and of processes of its own (see conftest.py), so whatever it leaves is
gone with it. Inside, `Namespace` plays the other parties: the mount pod, a container, kubelet.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from dynvol.mount import syscalls
from dynvol.mount.syscalls import MountFlag

T = TypeVar("T")

_CLONE_NEWPID = 0x20000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ChildFailed(AssertionError):
    """What a child raised, with its traceback as text."""


class Namespace:
    """A mount namespace, held by a descriptor. Closing it is what the end of a container is to its mounts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def copy(cls, *, prepare: Callable[[], None] = lambda: None) -> Namespace:
        """A copy of the present one; peers stay peers, unless `prepare`, run inside, says otherwise."""

        def enter() -> None:
            syscalls.unshare_mounts()
            prepare()

        return cls(_namespace_after(enter))

    def run(self, work: Callable[[], T], *, timeout: float = 30.0) -> T:
        """The result of `work`, pickled, from inside."""

        def inside() -> T:
            syscalls.enter_mounts(self._fd)
            return work()

        return run_in_child(inside, timeout=timeout)

    def start(self, work: Callable[[Callable[[], None]], None]) -> int:
        """The pid of a process inside that goes on; returns once it has called what it is given."""

        def inside(ready: Callable[[], None]) -> None:
            syscalls.enter_mounts(self._fd)
            work(ready)

        return start_child(inside)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_in_child(work: Callable[[], T], *, timeout: float = 30.0) -> T:
    """The result of `work` in a forked child; ChildFailed if it raises or takes too long."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _answer(writing, work)
    os.close(writing)
    try:
        succeeded, value = _receive(reading, pid, timeout)
    finally:
        os.close(reading)
        os.waitpid(pid, 0)
    if not succeeded:
        raise ChildFailed(value)
    result: T = value
    return result


def start_child(work: Callable[[Callable[[], None]], None]) -> int:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)

        def ready() -> None:
            os.write(writing, b"r")
            os.close(writing)

        try:
            work(ready)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    said = select.select([reading], [], [], 20)[0] and os.read(reading, 1)
    os.close(reading)
    assert said == b"r", "the process ended, or did not get ready"
    return pid


def run_isolated(work: Callable[[], None], *, playground: str, timeout: float) -> None:
    """Run `work` as process 1 of new namespaces of processes and mounts, with an empty tmpfs at `playground`. Whatever it
    starts is killed when it ends, whatever it mounts is gone."""

    def first_process() -> None:
        die_with_parent()
        syscalls.mount("/", flags=MountFlag.REC | MountFlag.PRIVATE)
        syscalls.mount("/proc", source="proc", fstype="proc")
        syscalls.mount(playground, source="playground", fstype="tmpfs")
        work()

    def outside() -> None:
        die_with_parent()
        syscalls.unshare_mounts()
        assert _libc.unshare(_CLONE_NEWPID) == 0, os.strerror(ctypes.get_errno())
        run_in_child(first_process, timeout=timeout)

    run_in_child(outside, timeout=timeout + 5)


def die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """What is inside does not block: it takes less than `seconds`."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds, f"took {took:.3f} s, at most {seconds} s wanted"


def _namespace_after(enter: Callable[[], None]) -> int:
    """The descriptor of the namespace that `enter` leads a child into. The child ends, the namespace stays."""
    go, wait = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            enter()
            os.write(go[1], b"r")
            os.close(wait[1])
            os.read(wait[0], 1)
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(go[1])
    os.close(wait[0])
    try:
        assert os.read(go[0], 1) == b"r", "the namespace could not be made"
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(go[0])
        os.close(wait[1])
        os.waitpid(pid, 0)


def _answer(writing: int, work: Callable[[], object]) -> NoReturn:
    try:
        answer = pickle.dumps((True, work()))
    except ChildFailed as failure:
        answer = pickle.dumps((False, str(failure)))
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    with os.fdopen(writing, "wb") as stream:
        stream.write(struct.pack("<Q", len(answer)) + answer)
    os._exit(0)


def _receive(reading: int, pid: int, timeout: float) -> tuple[bool, Any]:
    deadline = time.monotonic() + timeout
    data = b""
    while len(data) < 8 or len(data) < 8 + struct.unpack("<Q", data[:8])[0]:
        if not select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.kill(pid, signal.SIGKILL)
            return False, f"no answer within {timeout} s"
        chunk = os.read(reading, 1 << 16)
        if not chunk:
            return False, "the child ended without an answer"
        data += chunk
    answer: tuple[bool, Any] = pickle.loads(data[8:])
    return answer
