"""Many objects come as fast as one client can make them, and each is to be answered by one status patch.

By dynvol's runtime, by kopf, and by a client that is told the names and does nothing but patch: as fast as the API server lets
anyone. Whether all are answered, a watch tells that is the same for each.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynvol.api.resources import DEFINITIONS, NAMESPACES
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import KubeError
from dynvol.runtime.informer import Informer
from dynvol.runtime.store import Change

from .figure import Figure, Series, at_most
from .programs import Program, started
from .programs.raw import GROUP, PLURAL, VERSION
from .programs.widgets_reconciled import WIDGETS, Widget

PATIENCE = 120.0
"""Seconds for all objects of a round."""
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds, all of them. `latencies`: from the answer to a creation until a handler has the object."""

    took: float
    cpu: float
    latencies: tuple[float, ...]


async def measure(kubeconfig: Path, *, rounds: int, objects: int) -> list[Figure]:
    async with KubeClient.connect(kubeconfig) as client:
        await _define(client)
        contestants = ("widgets_patched", "widgets_reconciled", "widgets_by_kopf")
        # In turn, so that what else goes on hits them alike.
        found = [{who: await _round(client, kubeconfig, who, objects) for who in contestants} for _ in range(rounds)]
    return _figures(found, objects)


def _figures(found: list[dict[str, Round]], objects: int) -> list[Figure]:
    bare, ours, kopf = ([each[who] for each in found] for who in ("widgets_patched", "widgets_reconciled", "widgets_by_kopf"))
    limit = Series("the API's own limit", tuple(r.took for r in bare))
    waits = Series("event → handler", tuple(1000 * wait for r in ours for wait in r.latencies))
    kopfs = Series("kopf", tuple(1000 * wait for r in kopf for wait in r.latencies))
    return [
        Figure(f"{objects} objects, each reconciled", "s", _took("dynvol", ours), limit, "1.05 ×", at_most(lambda api: 1.05 * api)),
        Figure(f"{objects} objects by kopf", "s", _took("kopf", kopf), limit),
        Figure("CPU for that", "s", _cpu("dynvol", ours), _cpu("kopf", kopf), "1/5", at_most(lambda other: other / 5)),
        Figure("CPU for that, beside the bare patches", "s", _cpu("dynvol", ours), _cpu("bare patches", bare)),
        Figure("event → handler meanwhile", "ms", waits, kopfs, "30 ms", lambda f: f.measured.median <= 30),
    ]


def _took(name: str, rounds: list[Round]) -> Series:
    return Series(name, tuple(r.took for r in rounds))


def _cpu(name: str, rounds: list[Round]) -> Series:
    return Series(name, tuple(r.cpu for r in rounds))


async def _round(client: KubeClient, kubeconfig: Path, who: str, objects: int) -> Round:
    """In a namespace of its own, so that nobody meets what others have left."""
    namespace = f"bench-{who.replace('_', '-')}-{next(_numbers)}"
    await client.create(NAMESPACES, {"metadata": {"name": namespace}})
    async with (
        _answers(client, namespace, objects) as answered,
        started(who, kubeconfig, namespace) as worker,
        started("widgets_created", kubeconfig, namespace, objects) as creator,
    ):
        creator.send("go")
        async with asyncio.timeout(PATIENCE):
            await _pass_on(creator, worker if who == "widgets_patched" else None)
            ended = await worker.while_it_runs(answered)
        made, did = await creator.figures(), await worker.figures()
    return Round(ended - made["began"], did["cpu"], _latencies(made["created"], did["handled"]))


async def _pass_on(creator: Program, patcher: Program | None) -> None:
    """The names of what is made, to the one who is told. Returns when all are made."""
    while name := await creator.heard():
        if patcher is not None:
            patcher.send(name)


def _latencies(created: Mapping[str, float], handled: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(max(0.0, handled[name] - at) for name, at in created.items() if name in handled)


@asynccontextmanager
async def _answers(client: KubeClient, namespace: str, objects: int) -> AsyncIterator[asyncio.Future[float]]:
    """The moment (of the loop's clock, which is all processes') at which the last of the objects was seen to be answered."""
    loop = asyncio.get_running_loop()
    all_answered: asyncio.Future[float] = loop.create_future()
    answered: set[str] = set()

    def see(change: Change[Widget]) -> None:
        if change.new is not None and change.new.status.seen:
            answered.add(change.key)
            if len(answered) == objects and not all_answered.done():
                all_answered.set_result(loop.time())

    widgets = Informer(client.source(WIDGETS, namespace=namespace), name="answers")
    widgets.add_handler(see)
    watching = asyncio.create_task(widgets.run(), name="answers")
    try:
        await widgets.synced()
        yield all_answered
    finally:
        watching.cancel()


async def _define(client: KubeClient) -> None:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": schema, "status": schema}}},
    }
    spec = {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": PLURAL, "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [version],
    }
    await client.create(DEFINITIONS, {"metadata": {"name": f"{PLURAL}.{GROUP}"}, "spec": spec})
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await client.list(WIDGETS)
                return
            except KubeError:
                await asyncio.sleep(0.1)
