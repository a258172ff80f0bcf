"""What the controller runtime and the node process cost, of which no one needs a cluster with containers."""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from . import crowd, informer, nodeprocess, reconcile
from .apiserver import apiserver
from .figure import Figure

Server = Callable[[], AbstractAsyncContextManager[Path]]
"""An empty API server, by its kubeconfig: one of its own for whoever asks."""
Measure = Callable[[Server, bool], Awaitable[list[Figure]]]
"""Told whether the short form will do."""


async def _informer(_: Server, short: bool) -> list[Figure]:
    return await informer.measure(rounds=1 if short else 10, pods=200 if short else 5000)


async def _reconcile(server: Server, short: bool) -> list[Figure]:
    async with server() as kubeconfig:
        return await reconcile.measure(kubeconfig, rounds=1 if short else 5, objects=20 if short else 2000)


async def _among_claims(server: Server, short: bool) -> list[Figure]:
    async with server() as kubeconfig:
        return await crowd.among_claims(kubeconfig, sizes=(2, 10) if short else (10, 100, 1000, 5000), rounds=2 if short else 20)


async def _among_nodes(server: Server, short: bool) -> list[Figure]:
    async with server() as kubeconfig:
        if short:
            return await crowd.among_nodes(kubeconfig, sizes=(1, 3), seconds=1.0, rest=3.0)
        return await crowd.among_nodes(kubeconfig, sizes=(4, 8, 16), seconds=20.0, rest=40.0)


async def _start(server: Server, short: bool) -> list[Figure]:
    async with server() as kubeconfig:
        return await nodeprocess.start(kubeconfig, rounds=2 if short else 20)


async def _footprint(server: Server, short: bool) -> list[Figure]:
    async with server() as kubeconfig:
        if short:
            return await nodeprocess.footprint(kubeconfig, pods=4, mounts=2, claims=10, seconds=1.0)
        return await nodeprocess.footprint(kubeconfig, pods=110, mounts=50, claims=5000, seconds=60.0)


SUBJECTS: Final[Mapping[str, Measure]] = {
    "informer": _informer,
    "reconcile": _reconcile,
    "start": _start,
    "footprint": _footprint,
    "among-claims": _among_claims,
    "among-nodes": _among_nodes,
}


def measured(wanted: Collection[str], *, short: bool, own: bool) -> Iterator[Figure]:
    """The figures of the wanted subjects, as they come. `own`: on the project's API server, though there be a real one."""
    with asyncio.Runner() as runner:
        for name, measure in SUBJECTS.items():
            if name in wanted:
                yield from runner.run(_figures(measure, short=short, own=own))


async def _figures(measure: Measure, *, short: bool, own: bool) -> list[Figure]:
    return await measure(functools.partial(_server, own=own), short)


@asynccontextmanager
async def _server(*, own: bool) -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dynvol-bench-") as folder:
        async with apiserver(Path(folder), own=own) as kubeconfig:
            yield kubeconfig
