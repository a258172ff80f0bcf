"""As many pods as a node, and a claim, may have."""

from __future__ import annotations

import os
from typing import Final

import msgspec
import pytest

from dynvol.api.claim import PodMount
from dynvol.api.mounts import Phase
from dynvol.api.resources import CLAIMS, NODES

from .world import World

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

LONG: Final = bool(os.environ.get("DYNVOL_LONG"))
HERE: Final = 55 if LONG else 6
"""Pods of the node whose process runs. Kubelet's usual 110 hold so many with a mount pod for each."""
NODES_ELSEWHERE: Final = 9 if LONG else 1
ON_EACH: Final = 105
WORDS: Final = "x" * 500
"""As long as a mounter's sentence may be."""


async def test_a_claim_in_a_thousand_pods_says_what_is_true_of_each(world: World) -> None:
    total = HERE + NODES_ELSEWHERE * ON_EACH
    async with world.process():
        await world.add_class()
        for number in range(HERE):
            await world.add_pod(f"here-{number}")
        await world.add_claim()
        await world.until(lambda: world.condition("Ready").message == f"{HERE} of {HERE} pods have the mount", within=200)
        for number in range(NODES_ELSEWHERE):
            await speak_for(world, f"elsewhere-{world.name}-{number}", phase=Phase.FAILED, message=WORDS)
        await world.until(lambda: summary(world) == f"{HERE}/{total}", within=200)
        assert f"and {total - HERE - 1} more" in world.condition("Ready").message
        for number in range(NODES_ELSEWHERE):
            await speak_for(world, f"elsewhere-{world.name}-{number}", phase=Phase.MOUNTED)
        await world.until(lambda: world.condition("Ready").message == f"{total} of {total} pods have the mount", within=200)
        await world.delete_claim()
        await world.until(lambda: not world.table.mounts and len(world.entries()) == total - HERE, within=200)
        for number in range(NODES_ELSEWHERE):
            await world.admin.delete(NODES, f"elsewhere-{world.name}-{number}")
        await world.until(lambda: world.claim() is None and not len(world.mount_pods.store), within=200)


async def speak_for(world: World, node: str, *, phase: Phase, message: str = "") -> None:
    """What the process of another node says of its pods, who are that process's business alone."""
    if node not in [n.metadata.name for n in await world.admin.list(NODES)]:
        await world.admin.create(NODES, {"metadata": {"name": node}})
    same = PodMount(uid="", pod="", node=node, path="/root/data", phase=phase, message=message, observed_generation=1)
    names = [f"{node}-{number}" for number in range(ON_EACH)]
    entries = [msgspec.structs.replace(same, uid=name, pod=name, mount_pod=f"dynvol-mount-{name}") for name in names]
    body = {"status": {"pods": msgspec.to_builtins(entries)}}
    await world.admin.apply(
        CLAIMS, "data", body, field_manager=f"dynvol-node-{node}", namespace=world.namespace, subresource="status"
    )


def summary(world: World) -> str:
    claim = world.claim()
    return claim.status.summary if claim else ""


async def test_a_claim_whose_status_is_full_says_so_and_what_to_do(world: World) -> None:
    async with world.process() as process:
        await world.add_class()
        await world.add_pod()
        process.wire.refused = "/dynamicvolumeclaims/data/status"
        await world.add_claim()
        await world.until(lambda: [w for w in process.wire.writes if w.endswith("/data/status")])
    assert "TooManyPods" in await world.reasons_told("DynamicVolumeClaim")
    assert not world.table.mounts
