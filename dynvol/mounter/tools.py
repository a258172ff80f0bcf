"""What all sessions share: where they work, with whom, and how patient they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from dynvol.mount.executor import MountExecutor
from dynvol.mount.providers.contract import Answer, Request, Silence
from dynvol.mount.watch import MountWatcher

from .limits import Memory
from .process import Children
from .stage import Stage

Ask = Callable[[Request], Awaitable[Answer | Silence]]
"""Sends a request; has a deadline of its own, and never raises."""


class Timing(msgspec.Struct, frozen=True):
    """Durations in seconds. They are long because the smallest class runs everything at a hundredth of a core."""

    start: float = 120.0
    """A client that does not serve by then is killed, and tried again."""
    slow: float = 3.0
    """A client that does not serve by then may have a reason that the storage can tell."""
    first_retry: float = 0.1
    last_retry: float = 30.0
    lasting_retry: float = 5.0
    """First pause where someone has to act before it can work."""
    stable: float = 10.0
    """A client that served this long starts with quick retries again."""
    patience: float = 2.0
    """How long a plain unmount is tried before files that are open make it a lazy one."""
    linger: float = 30.0
    """How long files that are open hold a client that is no longer wanted."""
    settle: float = 5.0
    """How long programs wait for a successor while the client before it uploads what they have just closed."""
    settle_open: float = 0.5
    """How long while it has files open, and nothing to upload."""
    retire: float = 600.0
    """How long files that are open hold a client that a successor with other credentials took the place of."""
    leave: float = 5.0
    """How long a client may take to end once nothing uses it."""
    look: float = 30.0
    """How often a client is asked whether it still answers."""
    stuck: float = 30.0
    """A client that has not answered for so long is reported."""
    hopeless: float = 120.0
    """After so much longer it is killed."""
    silent: float = 60.0
    """A storage that has said nothing for so long costs all who share a client their open files, if a pod cannot end for it."""
    silent_poll: float = 5.0
    look_at_storage: float = 60.0
    """How long a program may take to see whether the storage is there."""
    flush_poll: float = 0.25
    flush_poll_slow: float = 2.0


class Tools(msgspec.Struct, frozen=True):
    """What all sessions share."""

    stage: Stage
    children: Children
    watcher: MountWatcher
    executor: MountExecutor
    ask: Ask
    memory: Memory
    timing: Timing = Timing()


async def first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Until one of them is done, or `timeout` seconds. None of them is cancelled."""
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
