"""Looks at the cluster twice a second, and tells how long things take to be well again.

What is asked of the API server stays as it was last known while that does not answer; that something is well is never assumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from e2e.chaos.expected import expected_in
from e2e.chaos.objects import CLIENTS, NAMESPACE, STEADY
from e2e.chaos.recovery import Look, Recovery, Touched
from e2e.chaos.world import STEADY_PODS, SYSTEM, World, url_of
from e2e.cluster.api import ApiError, Object
from e2e.manifests import GROUP

LOOK = 0.5
"""Seconds between looks."""
ANSWER = 5.0
"""Seconds that whoever is asked may take."""
STEADY_PLACES = frozenset((pod, f"/{client}/{STEADY}-{client}") for pod in STEADY_PODS for client in CLIENTS)


@dataclass(slots=True)
class Watch:
    """`run` looks for ever; `recovered` and `all_is_well` wait for what they are to see."""

    world: World
    last: Look = field(default_factory=lambda: Look(0.0))
    _addresses: dict[str, str] = field(default_factory=dict)
    """Of the node processes, by node."""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            look = await self._look(began)
            self.world.ledger.catch_up()
            async with self._news:
                self.last = look
                self._news.notify_all()
            await asyncio.sleep(LOOK)

    async def recovered(self, touched: Touched, *, since: float, before: Look) -> float | None:
        """Seconds from `since` until all that was touched had worked again; returns then. None if nothing of it stayed."""
        recovery = Recovery(touched, before, since=since)
        async with self._news:
            await self._news.wait_for(lambda: recovery.see(self.last, self.world.ledger.served))
        return recovery.seconds

    async def all_is_well(self) -> None:
        """The steady pods write into the steady claims, and nothing says otherwise."""
        async with self._news:
            await self._news.wait_for(lambda: not self.problems())

    def problems(self) -> list[str]:
        served = self.world.ledger.served
        return [
            *(f"nothing was written to {pod}:{path}" for pod, path in STEADY_PLACES if (pod, path) not in served),
            *(f"claim {STEADY}-{client} is not Ready" for client in CLIENTS if f"{STEADY}-{client}" not in self.last.claims),
            *(f"the node process on {node} is not ready" for node in self.world.cluster.nodes if node not in self.last.nodes),
        ]

    # --- One look

    async def _look(self, began: float) -> Look:
        try:
            async with asyncio.timeout(ANSWER):
                look = await self._ask_api(began)
        except (ApiError, aiohttp.ClientError, OSError, TimeoutError):
            look = replace(self.last, began=began, claims=frozenset())
        return replace(look, nodes=frozenset([node for node, at in self._addresses.items() if await _is_ready(at)]))

    async def _ask_api(self, began: float) -> Look:
        api = self.world.api
        claims = await api.list(url_of("DynamicVolumeClaim", namespace=NAMESPACE))
        pods = await api.list(url_of("Pod", namespace=NAMESPACE), labelSelector=f"app={NAMESPACE}")
        ours = await api.list(url_of("Pod", namespace=SYSTEM))
        self._addresses |= {p["spec"].get("nodeName", ""): ip for p in ours if _is_node_process(p) if (ip := _address(p))}
        staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return Look(
            began,
            pairs=frozenset(pair for claim in claims for pair in expected_in(claim, staying)),
            claims=frozenset(c["metadata"]["name"] for c in claims if _condition(c, "Ready") == "True"),
            mount_pods=dict(_described(pod) for pod in ours if _is_mount_pod(pod)),
        )


async def _is_ready(address: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        timeout = aiohttp.ClientTimeout(total=ANSWER)
        session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        async with session, session.get(f"http://{address}:9810/readyz") as answer:
            return answer.status == 200
    return False


def _described(mount_pod: Object) -> tuple[str, tuple[str, tuple[str, ...]]]:
    """Its workload in the words of `Pair.workload`."""
    meta = mount_pod["metadata"]
    _, provider_class, policy, pod_uid = meta["annotations"][f"{GROUP}/workload"].split("/")
    client = provider_class.rpartition("-")[2]
    return meta["name"], (meta["uid"], (client, mount_pod["spec"].get("nodeName", "") if policy == "shared" else pod_uid))


def _is_mount_pod(pod: Object) -> bool:
    return f"{GROUP}/mount-pod" in (pod["metadata"].get("labels") or {})


def _is_node_process(pod: Object) -> bool:
    return (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component") == "node"


def _address(pod: Object) -> str:
    return str((pod.get("status") or {}).get("podIP", ""))


def _condition(claim: dict[str, Any], kind: str) -> str:
    conditions = (claim.get("status") or {}).get("conditions") or ()
    return next((c["status"] for c in conditions if c["type"] == kind), "")
