"""The faults: how each is inflicted and healed, and one table of all of them.

Each is an async context manager: entering inflicts it and says what it touched, leaving heals it. What there is to choose from is
looked up when it strikes; where there is nothing, it raises `NoTarget`. A fault that chaos itself causes to restart a user's
container says so in `World.restarts`: what is counted beyond that is dynvol's doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from e2e.chaos import objects
from e2e.chaos.objects import NAMESPACE
from e2e.chaos.proxy import Mood
from e2e.chaos.recovery import Touched
from e2e.chaos.schedule import Kind, Stroke
from e2e.chaos.world import KEYS, SYSTEM, World
from e2e.cluster.api import Object
from e2e.cluster.lifecycle import APISERVER
from e2e.cluster.processes import Process
from e2e.grounds import onnode

T = TypeVar("T")


EVERYTHING = Touched()


class NoTarget(Exception):
    """There is nothing of the kind at the moment."""


Infliction = Callable[[World, Stroke], AbstractAsyncContextManager[Touched]]


@dataclass(frozen=True, slots=True)
class Fault:
    kind: Kind
    inflict: Infliction


def _one(found: Sequence[T], stroke: Stroke) -> T:
    if not found:
        raise NoTarget
    return found[stroke.choose(len(found))]


def _node(world: World, stroke: Stroke) -> str:
    return _one(sorted(world.machines()), stroke)


# --- Processes


def _killed(find: Callable[[World], Sequence[Process]], *, in_mount_pod: bool) -> Infliction:
    @asynccontextmanager
    async def inflict(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
        process = _one(find(world), stroke)
        touched = _around(process) if in_mount_pod else Touched(node=world.node_of(process))
        process.send(signal.SIGKILL)
        yield touched

    return inflict


def _around(process: Process) -> Touched:
    """What a process in a mount pod serves. A client's command line names its mount's source, which begins with the claim's uid."""
    named = re.search(r"dynvol-([0-9a-f-]{36})-", onnode.command(process.pid))
    return Touched(mount_pod=onnode.pod_of(process.pid), claim_uid=named[1] if named else "")


@asynccontextmanager
async def _leader_killed(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    leader = await world.leader()
    _one(world.processes("dynvol node", node=leader) if leader else (), stroke).send(signal.SIGKILL)
    yield EVERYTHING


@asynccontextmanager
async def _client_stopped(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    client: Process = _one(world.clients(), stroke)
    touched = _around(client)
    client.send(signal.SIGSTOP)
    yield touched
    client.send(signal.SIGCONT)


@asynccontextmanager
async def _container_killed(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    found = [(pod, process) for pod in await _writers(world) for process in world.processes(f"/ledger/{pod} {pod} ")]
    pod, process = _one(found, stroke)
    world.restarts[pod] += 1
    process.send(signal.SIGKILL)
    yield Touched(pod=pod)


async def _writers(world: World, *, node: str = "") -> list[str]:
    found = await world.all_of("Pod", labelSelector=f"app={NAMESPACE}")
    return sorted(pod["metadata"]["name"] for pod in found if not node or pod["spec"].get("nodeName") == node)


# --- Mount pods


def _replaced(mount_pod: Object) -> Touched:
    return Touched(mount_pod=mount_pod["metadata"]["name"], replaced=mount_pod["metadata"]["uid"])


async def _mount_pod(world: World, stroke: Stroke) -> Object:
    """One that is on a node, and to stay there."""
    found = [p for p in await world.mount_pods() if p["spec"].get("nodeName") and "deletionTimestamp" not in p["metadata"]]
    return _one(sorted(found, key=lambda pod: str(pod["metadata"]["name"])), stroke)


def _mount_pod_deleted(grace: int | None = None) -> Infliction:
    @asynccontextmanager
    async def inflict(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
        pod = await _mount_pod(world, stroke)
        await world.delete("Pod", pod["metadata"]["name"], namespace=SYSTEM, grace=grace)
        yield _replaced(pod)

    return inflict


@asynccontextmanager
async def _mount_pod_evicted(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    pod = await _mount_pod(world, stroke)
    orders = world.cluster.node_directory(pod["spec"]["nodeName"]) / "evictions"
    orders.mkdir(exist_ok=True)
    order = orders / pod["metadata"]["uid"]
    order.touch()
    async with asyncio.timeout(20):
        with contextlib.suppress(TimeoutError):
            while order.exists():  # noqa: ASYNC110 - the kubelet is another process
                await asyncio.sleep(0.1)
    order.unlink(missing_ok=True)
    yield _replaced(pod)


@asynccontextmanager
async def _mount_pod_unschedulable(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    pod = await _mount_pod(world, stroke)
    node = pod["spec"]["nodeName"]
    await world.apply(objects.hog(node, milli_cpu=1000 * (os.cpu_count() or 1)))
    try:
        await world.delete("Pod", pod["metadata"]["name"], namespace=SYSTEM)
        yield _replaced(pod)
    finally:
        await world.delete("Pod", f"hog-{node}", grace=0)


# --- The API server


@asynccontextmanager
async def _api_down(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    await world.cluster.kill(APISERVER)
    try:
        yield EVERYTHING
    finally:
        await world.cluster.start(APISERVER)


def _api_answers(*faults: dict[str, Any]) -> Infliction:
    """`faults` as in `e2e.cluster.apiserver.faults`."""

    @asynccontextmanager
    async def inflict(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
        await world.debug("faults", list(faults))
        try:
            yield EVERYTHING
        finally:
            await world.debug("faults", [])

    return inflict


@asynccontextmanager
async def _api_forgets(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    """410: nobody's version is known any more, at once and whenever a watch is taken up again."""

    async def compact() -> None:
        while True:
            for action in ("compact", "cut"):
                await world.debug(action)
            await asyncio.sleep(1)

    compacting = asyncio.create_task(compact(), name="compact")
    try:
        async with _api_answers({"methods": ["GET"], "status": 410, "probability": 0.3})(world, stroke):
            yield EVERYTHING
    finally:
        compacting.cancel()
        await asyncio.gather(compacting, return_exceptions=True)


@asynccontextmanager
async def _api_loses_time(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    """Up to a minute passes that the API server does not remember afterwards. What is chaos' own is written again."""
    kept = await asyncio.to_thread(world.remember)
    try:
        yield EVERYTHING
    finally:
        await world.go_back(kept)
        await world.furnish()


_CONFLICT = {"methods": ["POST", "PUT", "PATCH", "DELETE"], "status": 409, "probability": 0.5}


# --- The storage


def _storage(mood: Mood) -> Infliction:
    @asynccontextmanager
    async def inflict(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
        await world.proxy.become(mood)
        try:
            yield EVERYTHING
        finally:
            await world.proxy.become(Mood.WELL)

    return inflict


@asynccontextmanager
async def _secret_gone(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    await world.delete("Secret", objects.SECRET)
    try:
        yield EVERYTHING
    finally:
        await world.apply(world.secret())


@asynccontextmanager
async def _secret_changed(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    """To another key that is good as well."""
    world.access = next(key for key in KEYS if key != world.access)
    await world.apply(world.secret())
    yield EVERYTHING


# --- Nodes


@asynccontextmanager
async def _disk_full(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    node = _node(world, stroke)
    filler = world.cluster.disk(node) / "filler"
    try:
        await asyncio.to_thread(_fill, filler)
        yield Touched(node=node)
    finally:
        filler.unlink(missing_ok=True)


def _fill(file: os.PathLike[str]) -> None:
    """To the last page."""
    with open(file, "wb", buffering=0) as filler:
        for size in (1 << 20, 4096):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@asynccontextmanager
async def _kubelet_restarted(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    node = _node(world, stroke)
    await world.cluster.kill(f"kubelet/{node}")
    try:
        yield Touched(node=node)
    finally:
        await world.cluster.start(f"kubelet/{node}")


@asynccontextmanager
async def _node_rebooted(world: World, stroke: Stroke) -> AsyncIterator[Touched]:
    """All processes and mounts are gone, what is on disk is kept. The users' containers start again, which is not our doing."""
    node = _node(world, stroke)
    for pod in await _writers(world, node=node):
        world.restarts[pod] += 1
    await world.cluster.kill(node)
    try:
        yield Touched(node=node)
    finally:
        await world.cluster.start(node)


FAULTS = (
    Fault(Kind("node process killed", "node processes"), _killed(lambda world: world.processes("dynvol node"), in_mount_pod=False)),
    Fault(Kind("leader killed", "node processes"), _leader_killed),
    Fault(Kind("mounter killed", "mount pods"), _killed(lambda world: world.processes("dynvol mounter"), in_mount_pod=True)),
    Fault(Kind("client killed", "mount pods"), _killed(World.clients, in_mount_pod=True)),
    Fault(Kind("client stopped", "mount pods", (2, 40)), _client_stopped),
    Fault(Kind("container killed", "containers"), _container_killed),
    Fault(Kind("mount pod deleted", "mount pods"), _mount_pod_deleted()),
    Fault(Kind("mount pod deleted by force", "mount pods"), _mount_pod_deleted(grace=0)),
    Fault(Kind("mount pod evicted", "mount pods"), _mount_pod_evicted),
    Fault(Kind("mount pod unschedulable", "mount pods", (2, 20)), _mount_pod_unschedulable),
    Fault(Kind("API server down", "API server", (1, 40)), _api_down),
    Fault(Kind("API server slow", "API server", (2, 30)), _api_answers({"latency": 1.0})),
    Fault(
        Kind("API server answers 409", "API server", (2, 30)),
        _api_answers(_CONFLICT),
    ),
    Fault(Kind("API server answers 410", "API server", (2, 30)), _api_forgets),
    Fault(Kind("API server answers 429", "API server", (2, 30)), _api_answers({"status": 429, "probability": 0.6})),
    Fault(Kind("API server answers 500", "API server", (2, 30)), _api_answers({"status": 500, "probability": 0.5})),
    Fault(Kind("API server loses a minute", "API server", (5, 60)), _api_loses_time),
    Fault(Kind("S3 down", "S3", (2, 40)), _storage(Mood.DOWN)),
    Fault(Kind("S3 slow", "S3", (2, 40)), _storage(Mood.SLOW)),
    Fault(Kind("S3 refusing", "S3", (2, 40)), _storage(Mood.REFUSING)),
    Fault(Kind("S3 black-holed", "S3", (2, 40)), _storage(Mood.BLACK_HOLE)),
    Fault(Kind("Secret gone", "Secret", (2, 40)), _secret_gone),
    Fault(Kind("Secret changed", "Secret"), _secret_changed),
    Fault(Kind("disk full", "nodes", (2, 30)), _disk_full),
    Fault(Kind("kubelet restarted", "nodes", (0, 5)), _kubelet_restarted),
    Fault(Kind("node rebooted", "nodes", (0, 10)), _node_rebooted),
)
