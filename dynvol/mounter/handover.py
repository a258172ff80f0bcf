"""From a client to its successor, without a program noticing.

What a program has closed it must be able to read, whichever client it meets. A client that uploads after close(2) has that in its
cache at first, where its successor does not look; and what the successor does not find it goes on not finding, for as long as it
remembers a directory. So a successor is held still before anyone meets it, and let go when the storage has what was closed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dynvol.mount.mountinfo import MountTable

from .life import Life
from .tools import Tools, first

_POLL = 0.02
"""Seconds, at first: programs wait."""


async def until_hidden(life: Life, tools: Tools) -> None:
    """Until a client's mount shows nowhere any more."""
    below, device = f"{tools.stage.root}/", life.device

    def hidden(table: MountTable) -> bool:
        return not any(mount.device == device and mount.path.startswith(below) for mount in table)

    await tools.watcher.wait_for(hidden)


async def settle(life: Life, tools: Tools, *, hidden: asyncio.Future[None], unless: asyncio.Future[Any]) -> None:
    """Until nobody meets the client any more, and nothing of what was closed in it waits for its upload; but not for long. A file
    that is open is given a moment to be closed."""
    timing, began, pause = tools.timing, _now(), _POLL
    await first(hidden, life.child.exited, unless, timeout=timing.settle)
    while life.alive and not unless.done() and (waited := _now() - began) < timing.settle:
        if not await life.unflushed() and (waited >= timing.settle_open or not await life.written_to()):
            return
        await first(life.child.exited, unless, timeout=pause)
        pause = min(pause * 1.5, timing.flush_poll)


def _now() -> float:
    return asyncio.get_running_loop().time()
