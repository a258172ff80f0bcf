"""When all is well again: what users of the steady pods and claims see, looked at twice a second.

*Well* since a moment means: every steady pod has, since then, closed a file without an error in every steady claim's mount; all
node processes say that they are ready; the API server says that all steady claims are. So a fault's recovery is measured from its
healing to that; where another one strikes before, it is not measured, for no one could tell whose it was.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp

from e2e.chaos.objects import CLIENTS, STEADY
from e2e.chaos.world import STEADY_PODS, SYSTEM, World, url_of
from e2e.cluster.api import ApiError

LOOK = 0.5
"""Seconds between looks."""

PAIRS = tuple((pod, f"/{client}/{STEADY}-{client}") for pod in STEADY_PODS for client in CLIENTS)


@dataclass(slots=True)
class Watch:
    """`run` looks for ever; `well_since` waits."""

    world: World
    problem: str = "not looked yet"
    """What is not as it should be; empty if all is well but for what programs have still to write."""
    looked: float = 0.0
    """When the last look began, in seconds since boot."""
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            self.world.ledger.catch_up()
            problem = await self._problem()
            async with self._news:
                self.problem, self.looked = problem, began
                self._news.notify_all()
            await asyncio.sleep(LOOK)

    async def well_since(self, moment: float) -> float:
        """Seconds from `moment` until all was well; returns when it is."""
        async with self._news:
            await self._news.wait_for(lambda: self.looked >= moment and not self.problem and not self.silent_since(moment))
        return max(self.looked, *(self.world.ledger.last_done[pair] for pair in PAIRS)) - moment

    def silent_since(self, moment: float) -> list[str]:
        """The pods' mounts into which nothing has been written since."""
        done = self.world.ledger.last_done
        return [f"{pod}:{mount}" for pod, mount in PAIRS if done.get((pod, mount), 0.0) <= moment]

    async def _problem(self) -> str:
        try:
            async with asyncio.timeout(10):
                return await self._unready_claims() or await self._unready_processes()
        except (ApiError, aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"the API server: {error or type(error).__name__}"

    async def _unready_claims(self) -> str:
        claims = await self.world.api.list(url_of("DynamicVolumeClaim", namespace="chaos"))
        ready = {c["metadata"]["name"] for c in claims if _condition(c, "Ready") == "True"}
        return ", ".join(f"claim {STEADY}-{c} is not Ready" for c in CLIENTS if f"{STEADY}-{c}" not in ready)

    async def _unready_processes(self) -> str:
        pods = await self.world.api.list(url_of("Pod", namespace=SYSTEM), labelSelector="app.kubernetes.io/component=node")
        addresses = {p["spec"].get("nodeName", ""): (p.get("status") or {}).get("podIP", "") for p in pods}
        answers = [f"no node process on {node}" for node in self.world.cluster.nodes if not addresses.get(node)]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5), trust_env=False) as session:
            for node, address in addresses.items():
                async with session.get(f"http://{address}:9810/readyz") as answer:
                    answers += [] if answer.status == 200 else [f"the node process on {node} is not ready"]
        return ", ".join(answers)


def _condition(claim: dict[str, object], kind: str) -> str:
    status = claim.get("status") or {}
    assert isinstance(status, dict)
    return next((c["status"] for c in status.get("conditions") or () if c["type"] == kind), "")
