"""Creates objects, one after the other without a pause: `… widgets_created KUBECONFIG NAMESPACE COUNT`.

Says each name once it is there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import aiohttp

from e2e.bench.programs import READY, lines, say, tell
from e2e.bench.programs.raw import GROUP, VERSION, collection, session


async def main(kubeconfig: Path, namespace: str, count: int) -> None:
    created: dict[str, float] = {}
    async with session(kubeconfig) as api:
        say(READY)
        waiting = lines()
        await anext(waiting)
        began = time.monotonic()
        for number in range(count):
            name = f"w-{number:05}"
            await _create(api, collection(namespace), name)
            created[name] = time.monotonic()
            say(name)
        ended = time.monotonic()
        say("")
        async for _ in waiting:
            pass
    tell(began=began, ended=ended, created=created)


async def _create(api: aiohttp.ClientSession, path: str, name: str) -> None:
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1}}
    async with api.post(path, data=json.dumps(body), headers={"Content-Type": "application/json"}) as answer:
        await answer.read()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
