"""How much the processes of dynvol hold: threads, file descriptors, tasks of their event loops. Compared before and after."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping

import aiohttp

from e2e.chaos.world import SYSTEM, World

ALLOWED = {"threads": 8, "file descriptors": 12, "tasks": 12}
"""How many more of each may be there at the end: Python's own pool makes threads up to six as they are needed, and connections to
the API server come and go."""

Footprint = Mapping[tuple[str, str], int]
"""(process, what) → how many."""


async def footprint(world: World) -> Footprint:
    """Of the node process that leads, which has more to do, the largest of the others, and the largest of all mounters."""
    leader = await world.leader()
    found: dict[tuple[str, str], int] = {}
    for node in world.cluster.nodes:
        for process in world.processes("dynvol node", node=node):
            for what, count in _held(process.pid).items():
                _note(found, _role(node, leader), what, count)
    for process in world.processes("dynvol mounter"):
        for what, count in _held(process.pid).items():
            _note(found, "mounter", what, count)
    pods = await world.all_of("Pod", namespace=SYSTEM, labelSelector="app.kubernetes.io/component=node")
    for pod in pods:
        _note(found, _role(pod["spec"]["nodeName"], leader), "tasks", await _tasks(pod["status"]["podIP"]))
    return found


def _role(node: str, leader: str) -> str:
    """Who leads changes in the course of a run."""
    return "the node process that leads" if node == leader else "a node process that does not lead"


def _note(found: dict[tuple[str, str], int], process: str, what: str, count: int) -> None:
    found[process, what] = max(count, found.get((process, what), 0))


def grown(before: Footprint, after: Footprint) -> Iterable[str]:
    for (process, what), count in after.items():
        most = before.get((process, what), 0) + ALLOWED[what]
        if count > most:
            yield f"{process} holds {count} {what}; before it was {before.get((process, what), 0)}"


def _held(pid: int) -> dict[str, int]:
    with contextlib.suppress(OSError):
        return {"threads": len(os.listdir(f"/proc/{pid}/task")), "file descriptors": len(os.listdir(f"/proc/{pid}/fd"))}
    return {}


async def _tasks(address: str) -> int:
    async with aiohttp.ClientSession(trust_env=False) as session, session.get(f"http://{address}:9810/metrics") as answer:
        text = await answer.text()
    found = re.search(r"^dynvol_event_loop_tasks (\S+)$", text, re.MULTILINE)
    assert found, "the node process does not say how many tasks it has"
    return int(float(found[1]))
