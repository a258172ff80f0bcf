"""How the cost of one claim grows: with the number of other claims, and with the number of nodes.

The nodes are played (`programs.nodes_played`): all that a node process does with the API, and nothing that it does with mounts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from .figure import Figure, Goal, Growth, Series
from .programs import Program, started
from .scene import Scene, at_once, node_name, scene

NODES_PER_PROCESS = 50
RATE = 10.0
"""Claims in a second."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all nodes together."""

    writes: int
    reads: int
    events: int
    cpu: float

    @property
    def requests(self) -> int:
        return self.writes + self.reads

    def since(self, before: Counts) -> Counts:
        return Counts(self.writes - before.writes, self.reads - before.reads, self.events - before.events, self.cpu - before.cpu)


async def counts(programs: Sequence[Program]) -> Counts:
    answers = [await program.asked("") for program in programs]
    reads = sum(a["requests"].get("GET", 0) for a in answers)
    every = sum(sum(a["requests"].values()) for a in answers)
    return Counts(every - reads, reads, sum(a["events"] for a in answers), sum(a["cpu"] for a in answers))


# --- Among other claims


async def among_claims(kubeconfig: Path, *, sizes: Sequence[int], rounds: int) -> list[Figure]:
    """One node, one pod; the other claims are of the same namespace, and for pods that are not here."""
    took: dict[float, Series] = {}
    cpu: dict[float, Series] = {}
    async with scene(kubeconfig) as stage:
        await stage.add_node(0)
        async with started("nodes_played", kubeconfig, 0, 1) as program:
            await stage.add_claim("first", on=node_name(0))
            await stage.until(lambda: stage.summed_up("first"))
            there = 0
            for size in sizes:
                await at_once(stage.add_claim(f"other-{n}", app="web", on=f"elsewhere-{n}") for n in range(there, size))
                there = size
                await stage.until_each(stage.claim_settled, [f"other-{n}" for n in range(there)])
                rows = [await _one_more(stage, program, f"one-{size}-{number}") for number in range(rounds)]
                took[size], cpu[size] = (Series(f"among {size}", tuple(row[i] for row in rows)) for i in (0, 1))
    return [
        _growth("a claim mounted, of many", "ms", "claims in the namespace", took, "flat", _grows_at_most(0.1)),
        _growth("CPU of the node process for it", "ms", "claims in the namespace", cpu, "flat", _grows_at_most(0.1)),
    ]


async def _one_more(stage: Scene, program: Program, name: str) -> tuple[float, float]:
    """Milliseconds until it is mounted, and of the node's CPU until all is said of it."""
    before = await counts([program])
    asked = await stage.add_claim(name, on=node_name(0))
    came = await stage.until(lambda: stage.mounted(name))
    await stage.until(lambda: stage.summed_up(name))
    return (came - asked) * 1000, (await counts([program])).since(before).cpu * 1000


# --- Among nodes


async def among_nodes(kubeconfig: Path, *, sizes: Sequence[int], seconds: float, rest: float) -> list[Figure]:
    """Each node has one pod. Claims come at a steady rate, each for one pod; then nothing happens; then one comes for all pods."""
    found: dict[float, _Found] = {}
    async with scene(kubeconfig) as stage, AsyncExitStack() as running:
        programs: list[Program] = []
        there = 0
        for size in sizes:
            await at_once(stage.add_node(number) for number in range(there, size))
            for first in range(there, size, NODES_PER_PROCESS):
                count = min(NODES_PER_PROCESS, size - first)
                programs.append(await running.enter_async_context(started("nodes_played", kubeconfig, first, count)))
            await at_once(stage.add_claim(f"own-{number}", on=node_name(number)) for number in range(there, size))
            there = size
            await stage.until_each(stage.summed_up, [f"own-{number}" for number in range(there)])
            found[size] = await _with_nodes(stage, programs, size, seconds=seconds, rest=rest)
    return _of_nodes(found)


@dataclass(frozen=True, slots=True)
class _Found:
    """`each`: what one claim for one pod made; `rest`: what all nodes do in a second of rest; `all_pods`: a claim for all pods."""

    each: Counts
    claims: int
    rest: Counts
    seconds: float
    all_pods: Counts


async def _with_nodes(stage: Scene, programs: Sequence[Program], size: int, *, seconds: float, rest: float) -> _Found:
    claims = [f"rate-{size}-{number}" for number in range(int(seconds * RATE))]
    before = await counts(programs)
    began = time.perf_counter()
    for number, name in enumerate(claims):
        await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
        await stage.add_claim(name, on=node_name(number % size))
    await stage.until_each(stage.summed_up, claims)
    after = await counts(programs)
    await asyncio.sleep(rest)
    at_rest = await counts(programs)
    await stage.add_claim(f"all-{size}", app="web")
    await stage.until(lambda: stage.summed_up(f"all-{size}", size))
    at_last = await counts(programs)
    return _Found(after.since(before), len(claims), at_rest.since(after), rest, at_last.since(at_rest))


def _of_nodes(found: Mapping[float, _Found]) -> list[Figure]:
    def series(name: str, value: str, of: str) -> dict[float, Series]:
        rows = {size: getattr(f, of) for size, f in found.items()}
        per = {size: f.claims if of == "each" else f.seconds if of == "rest" else 1 for size, f in found.items()}
        return {size: Series(name, (getattr(rows[size], value) / per[size],)) for size in found}

    constant, linear = _grows_at_most(0.2), _grows_at_most(1.1)
    return [
        _growth("writes for a claim on one pod", "requests", "nodes", series("writes", "writes", "each"), "flat", constant),
        _growth("watch events for it", "events, all nodes", "nodes", series("events", "events", "each"), "linear", linear),
        _growth("requests at rest", "1/s, all nodes", "nodes", series("requests", "requests", "rest"), "linear", linear),
        _growth("writes for a claim on all pods", "requests", "nodes", series("writes", "writes", "all_pods"), "linear", linear),
        _growth("watch events for that", "events, all nodes", "nodes", series("events", "events", "all_pods"), "", None),
    ]


def _growth(name: str, unit: str, over: str, sizes: Mapping[float, Series], goal: str, reached: Goal | None) -> Figure:
    """The largest, held against the smallest."""
    smallest, largest = min(sizes), max(sizes)
    growth = Growth(over, sizes)
    least, most = (Series(f"with {size:.0f} {over}", sizes[size].samples) for size in (smallest, largest))
    return Figure(f"{name}, {largest:.0f} {over}", unit, most, least, goal, reached, growth=growth)


def _grows_at_most(exponent: float) -> Goal:
    return lambda figure: figure.growth is not None and figure.growth.exponent <= exponent
