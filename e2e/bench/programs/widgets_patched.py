"""Patches what it is told, at once and with nothing in between: `… widgets_patched KUBECONFIG NAMESPACE`, names as input."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp

from e2e.bench.programs import READY, cpu_seconds, lines, say, tell
from e2e.bench.programs.raw import ANSWER, AT_ONCE, MERGE_PATCH, collection, session


async def main(kubeconfig: Path, namespace: str) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with session(kubeconfig) as api:
        workers = [asyncio.create_task(_patch(api, collection(namespace), told), name=f"patcher-{n}") for n in range(AT_ONCE)]
        say(READY)
        used = cpu_seconds()
        async for name in lines():
            told.put_nowait(name)
        for worker in workers:
            worker.cancel()
    tell(cpu=cpu_seconds() - used, handled={})


async def _patch(api: aiohttp.ClientSession, path: str, told: asyncio.Queue[str]) -> None:
    while True:
        name = await told.get()
        async with api.patch(f"{path}/{name}/status", data=ANSWER, headers=MERGE_PATCH) as answer:
            await answer.read()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
