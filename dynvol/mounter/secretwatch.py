"""Tells when the Secret's files may have changed. Kubelet swaps all of them at once, by renaming one symbolic link.

inotify(7), because nothing polls here: a mount pod that has nothing to do does nothing. What changed is for whoever listens to find
out; a change may be told more than once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Final

from dynvol.observe import logs

_log: Final = logs.get(__name__)

_CLOSE_WRITE: Final = 0x8
_MOVED_TO: Final = 0x80
_DELETE: Final = 0x200
_SETTLE: Final = 0.1
"""Seconds: kubelet swaps the link first, and makes and removes the names of single files after that."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def watching(directory: str, changed: Callable[[], None]) -> Iterator[None]:
    """`changed` is called, on the running loop, after each change of what lies directly in the directory. Where no watch is to be
    had, clients use what there is when they start, as they do anyway."""
    loop = asyncio.get_running_loop()
    try:
        fd = _watch(directory)
    except OSError as error:
        _log.warning("changes of the credentials will not be noticed", path=directory, error=str(error))
        yield
        return

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(fd, 65536)
        loop.call_later(_SETTLE, changed)

    loop.add_reader(fd, read)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _watch(directory: str) -> int:
    fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        raise _failure()
    if _libc.inotify_add_watch(fd, os.fsencode(directory), _CLOSE_WRITE | _MOVED_TO | _DELETE) < 0:
        error = _failure()
        os.close(fd)
        raise error
    return fd


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
