"""kubernetes_asyncio makes its models of all pods, page by page, from bytes that are there already: `… models URL`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.request
from types import SimpleNamespace
from typing import Any

from kubernetes_asyncio.client import ApiClient

from e2e.bench.programs import READY, cpu_seconds, lines, most_memory, say, tell

PAGE = 500


async def main(url: str) -> None:
    say(READY)
    pods: list[Any] = []
    took = used = 0.0
    token: str | None = ""
    async with ApiClient() as client:
        while token is not None:
            page = _get(f"{url}?limit={PAGE}" + (f"&continue={token}" if token else ""))
            before, began = cpu_seconds(), time.perf_counter()
            pods += client.deserialize(SimpleNamespace(data=page), "V1PodList").items
            took += time.perf_counter() - began
            used += cpu_seconds() - before
            token = json.loads(page)["metadata"].get("continue")
    async for _ in lines():
        pass
    tell(seconds=took, cpu=used, memory=most_memory(), objects=len(pods))


def _get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        text: str = answer.read().decode()
        return text


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
