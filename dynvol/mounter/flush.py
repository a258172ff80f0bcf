"""Waiting for what was written through a client to reach the storage, and for programs to close what they write.

A client uploads by itself. Here is how long that is waited for, what is said meanwhile, and which clients are killed since nothing
will come of them: their caches stay, and a client that comes later uploads the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from dynvol.mount.providers.contract import Finding
from dynvol.observe import logs

from .life import Life
from .tools import Timing, first

_log: Final = logs.get(__name__)

Say = Callable[[int, Finding | None], None]
"""Hears how many files are left, and what the storage has against it."""


async def until_flushed(life: Life, timing: Timing, *, unless: asyncio.Future[Any], say: Say, in_use: bool = False) -> bool:
    """Until nothing is left to upload: True. Or until the client is dead, `unless` is done, or another client would do better: the
    storage is back after it was away, and this one may wait for minutes before it tries again.

    A client that hangs is dead afterwards. So is one that is `in_use` and cannot upload for as long as open files count.
    """
    pause, away = timing.flush_poll, False
    async with _ending_if_stuck(life, timing, in_use=in_use):
        while count := await life.unflushed():
            slow = pause >= timing.flush_poll_slow
            cause = await life.diagnose() if slow else None
            say(count, cause)
            if away and slow and cause is None and not life.in_kernel:
                return False
            away = away or cause is not None
            await first(life.child.exited, unless, timeout=pause)
            if not life.alive or unless.done():
                return False
            pause = min(pause * 1.5, timing.flush_poll_slow)
    return True


async def until_closed(life: Life, timing: Timing, *, unless: asyncio.Future[Any], within: float) -> None:
    """Until no program has a file open to write. A client that loses its last mount together with its last file is not told
    that this was closed: rclone does not put down then which parts of it were written, and those would never be uploaded."""
    deadline, pause = _now() + within, timing.flush_poll
    while _now() < deadline and not unless.done() and await life.written_to():
        await first(life.child.exited, unless, timeout=pause)
        pause = min(pause * 1.5, timing.flush_poll_slow)


@contextlib.asynccontextmanager
async def _ending_if_stuck(life: Life, timing: Timing, *, in_use: bool) -> AsyncIterator[None]:
    """Inside, a client that answers nothing any more is killed: it uploads nothing either. (But for the kernel's, which goes on by
    itself when its server is back.) One that is in use and cannot upload is, since programs that wait for it could not be ended,
    not even by kubelet."""
    task = asyncio.create_task(_end_if_stuck(life, timing, in_use=in_use), name=f"look at {life.place.mountpoint}")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _end_if_stuck(life: Life, timing: Timing, *, in_use: bool) -> None:
    last = _now() + timing.linger if in_use else math.inf
    while life.alive:
        answer = asyncio.ensure_future(life.statfs())
        try:
            await first(answer, life.child.exited, timeout=min(timing.stuck, max(0.0, last - _now())))
            stuck = not answer.done() and not life.in_kernel
            if life.alive and (stuck or _now() >= last):
                _log.warning("client is stuck, and is killed", source=life.mount.source, pid=life.child.pid)
                life.child.signal(signal.SIGKILL)
                return
        finally:
            answer.cancel()
        await first(life.child.exited, timeout=min(timing.look, max(0.0, last - _now())))


def _now() -> float:
    return asyncio.get_running_loop().time()
