"""An informer's first list: how long, how much memory, and for how long nothing else can run meanwhile.

Beside the models of kubernetes_asyncio, which are given the bytes and only decode them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from .figure import Figure, Series
from .programs import started


async def measure(*, rounds: int, pods: int) -> list[Figure]:
    async with started("pods_served", pods) as server:
        port, size = int(server.said[0]), int(server.said[1])
        url = f"http://127.0.0.1:{port}"
        with tempfile.TemporaryDirectory(prefix="dynvol-bench-") as folder:
            kubeconfig = _kubeconfig(Path(folder), url)
            ours = [await _outcome("first_sync", kubeconfig, objects=pods) for _ in range(rounds)]
        models = [await _outcome("models", f"{url}/api/v1/pods", objects=pods) for _ in range(rounds)]
    what = f"{pods} pods of {size / 1000:.1f} kB"
    return [
        Figure(
            f"first sync of {what}",
            "s",
            _series("informer", ours, "seconds"),
            _series("models, decoding alone", models, "seconds"),
            "0.6 s",
            lambda f: f.measured.median <= 0.6,
        ),
        Figure(
            "process that has them",
            "MiB",
            _series("informer", ours, "memory"),
            _series("models", models, "memory"),
            "55 MiB",
            lambda f: f.measured.median <= 55,
        ),
        Figure(
            "longest stall of the event loop meanwhile",
            "ms",
            Series("informer", tuple(o["stall"] * 1000 for o in ours)),
            Series("models, all in one", tuple(o["seconds"] * 1000 for o in models)),
            "10 ms",
            lambda f: f.measured.median <= 10,
        ),
    ]


async def _outcome(program: str, argument: object, *, objects: int) -> dict[str, Any]:
    async with started(program, argument) as running:
        found = await running.figures()
    if found["objects"] != objects:
        raise RuntimeError(f"{program} knows {found['objects']} of {objects} objects")
    return found


def _series(name: str, outcomes: list[dict[str, Any]], key: str) -> Series:
    return Series(name, tuple(outcome[key] for outcome in outcomes))


def _kubeconfig(folder: Path, url: str) -> Path:
    path = folder / "kubeconfig"
    context = {"name": "bench", "context": {"cluster": "bench", "user": "bench"}}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "bench", "cluster": {"server": url}}],
                "users": [{"name": "bench", "user": {"token": "none"}}],
                "contexts": [context],
                "current-context": "bench",
            }
        )
    )
    return path
