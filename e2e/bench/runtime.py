"""What the controller runtime and the node process cost, of which no one needs a cluster with containers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from . import informer, reconcile
from .apiserver import apiserver
from .figure import Figure

Measure = Callable[[Path, bool], Awaitable[list[Figure]]]
"""Given an API server's kubeconfig, and whether the short form will do."""


async def _informer(_: Path, short: bool) -> list[Figure]:
    return await informer.measure(rounds=1 if short else 10, pods=200 if short else 5000)


async def _reconcile(kubeconfig: Path, short: bool) -> list[Figure]:
    return await reconcile.measure(kubeconfig, rounds=1 if short else 5, objects=20 if short else 2000)


SUBJECTS: Final[Mapping[str, Measure]] = {"informer": _informer, "reconcile": _reconcile}


def measured(wanted: Collection[str], *, short: bool, own: bool) -> Iterator[Figure]:
    """The figures of the wanted subjects, as they come. `own`: on the project's API server, though there be a real one."""
    with asyncio.Runner() as runner:
        for name, measure in SUBJECTS.items():
            if name in wanted:
                yield from runner.run(_on_a_server(measure, short=short, own=own))


async def _on_a_server(measure: Measure, *, short: bool, own: bool) -> list[Figure]:
    """One of its own for each: none has to do with what another left there."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dynvol-bench-")))
        kubeconfig = await stack.enter_async_context(apiserver(folder, own=own))
        return await measure(kubeconfig, short)
