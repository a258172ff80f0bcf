"""A node keeps its startup taint until it can be used, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from dynvol.api import names
from dynvol.api.core import Node, NodeSpec, Taint
from dynvol.api.resources import NODES
from dynvol.controllers.startuptaint import StartupTaintController, removal
from dynvol.controllers.view import Instruments
from dynvol.observe.health import Finding, Report
from unit.apiservers import eventually

from .tasks import owning
from .world import World

STARTUP = {"key": names.STARTUP_TAINT, "effect": "NoSchedule"}
OTHER = {"key": "other", "value": "x", "effect": "NoSchedule"}


class Readiness:
    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.asked = asyncio.Event()

    async def report(self) -> Report:
        self.asked.set()
        return Report((Finding("csi", self.problem),))


@asynccontextmanager
async def controller(world: World, readiness: Readiness) -> AsyncIterator[None]:
    async with world.process(lead=False) as process:
        work = StartupTaintController(process.view, client=process.client, readiness=readiness.report, instruments=Instruments())
        async with owning(work.run()):
            yield


async def taint(world: World, *taints: dict[str, str]) -> None:
    await world.admin.merge_patch(NODES, world.node, {"spec": {"taints": list(taints)}})


async def keys(world: World) -> list[str]:
    node = await world.admin.get(NODES, world.node)
    return [t.key for t in node.spec.taints if not t.key.startswith("node.kubernetes.io/")]


async def become(world: World, expected: Sequence[str]) -> None:
    async def so() -> bool:
        return await keys(world) == list(expected)

    await eventually(so)


@pytest.mark.asyncio(loop_scope="session")
async def test_it_goes_when_the_node_is_ready_and_others_stay(world: World) -> None:
    await taint(world, STARTUP, OTHER, {**STARTUP, "effect": "NoExecute"})
    async with controller(world, Readiness()):
        await become(world, ["other"])


@pytest.mark.asyncio(loop_scope="session")
async def test_it_stays_until_the_node_is_ready(world: World) -> None:
    await taint(world, STARTUP)
    readiness = Readiness("kubelet has not registered the CSI driver yet")
    async with controller(world, readiness):
        await readiness.asked.wait()
        assert await keys(world) == [names.STARTUP_TAINT]
        readiness.problem = ""
        await become(world, [])


@pytest.mark.asyncio(loop_scope="session")
async def test_it_goes_again_when_it_comes_back(world: World) -> None:
    async with controller(world, Readiness()):
        for _ in range(2):
            await taint(world, STARTUP)
            await become(world, [])


def test_of_a_node_without_it_nothing_is_taken() -> None:
    assert removal(Node()) == []
    assert removal(Node(spec=NodeSpec(taints=(Taint(key="other"),)))) == []


def test_each_removal_is_tested_and_moves_no_other() -> None:
    node = Node(spec=NodeSpec(taints=(Taint(key=names.STARTUP_TAINT), Taint(key="x"), Taint(key=names.STARTUP_TAINT))))
    assert [(o["op"], o["path"]) for o in removal(node)] == [
        ("test", "/spec/taints/2/key"),
        ("remove", "/spec/taints/2"),
        ("test", "/spec/taints/0/key"),
        ("remove", "/spec/taints/0"),
    ]
