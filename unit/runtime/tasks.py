"""Tasks that end with the test's block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def running(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Have `work` run beside the block. If it failed by itself, that comes out at the block's end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        await task


async def settle() -> None:
    """Until nobody has anything to do at this time. Under virtual time, time passes only then."""
    await asyncio.sleep(0.001)


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def pass_time(seconds: float) -> None:
    """Virtual time, under the mark `looptime`: all that is due in between happens, and nobody waits."""
    await asyncio.sleep(seconds)
