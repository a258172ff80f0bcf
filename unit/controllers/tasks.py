"""Endless work beside a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def owning(*works: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Runs `works` until the block ends. One that fails by itself ends the block, and its error comes out."""
    async with asyncio.TaskGroup() as tasks:
        own = [tasks.create_task(work) for work in works]
        try:
            yield
        finally:
            for task in own:
                task.cancel()
