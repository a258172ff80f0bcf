"""Liveness, readiness and startup probes: one task for each probe of each running container.

A prober knows thresholds and periods, and says what it found through two calls; what follows from it (a restart, a
condition) is the worker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from e2e.cluster.api import Object

log = logging.getLogger(__name__)

Execute = Callable[[list[str], float], Awaitable[tuple[int, str]]]


@dataclass(frozen=True, slots=True)
class Result:
    passed: bool
    message: str


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe with its defaults filled in; times are seconds."""

    action: Object
    port_names: dict[str, int]
    host: str
    initial_delay: float
    period: float
    limit: float
    successes: int
    failures: int

    @classmethod
    def of(cls, spec: Object, container: Object, *, host: str) -> Probe:
        names = {port["name"]: port["containerPort"] for port in container.get("ports") or () if "name" in port}
        return cls(
            action=spec,
            port_names=names,
            host=host,
            initial_delay=spec.get("initialDelaySeconds", 0),
            period=spec.get("periodSeconds", 10),
            limit=spec.get("timeoutSeconds", 1),
            successes=spec.get("successThreshold", 1),
            failures=spec.get("failureThreshold", 3),
        )

    async def once(self, execute: Execute) -> Result:
        try:
            async with asyncio.timeout(self.limit):
                if "exec" in self.action:
                    code, output = await execute(self.action["exec"]["command"], self.limit)
                    return Result(code == 0, output.strip())
                if "tcpSocket" in self.action:
                    return await self._connect(self.action["tcpSocket"])
                if "httpGet" in self.action:
                    return await self._get(self.action["httpGet"])
                return Result(False, f"unsupported probe: {sorted(self.action)}")
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            return Result(False, str(error) or f"no answer within {self.limit} s")

    def _port(self, named: int | str) -> int:
        return named if isinstance(named, int) else self.port_names.get(named) or int(named)

    async def _connect(self, action: Object) -> Result:
        _, writer = await asyncio.open_connection(action.get("host") or self.host, self._port(action["port"]))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return Result(True, "")

    async def _get(self, action: Object) -> Result:
        """Any answer from 200 to 399 passes; certificates are not checked, as kubelet does not."""
        scheme = action.get("scheme", "HTTP").lower()
        url = f"{scheme}://{action.get('host') or self.host}:{self._port(action['port'])}{action.get('path') or '/'}"
        headers = {header["name"]: header["value"] for header in action.get("httpHeaders") or ()}
        headers.setdefault("User-Agent", "kube-probe/1.32")
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.get(url, headers=headers, ssl=False, allow_redirects=False) as response,
        ):
            if 200 <= response.status < 400:
                return Result(True, "")
            return Result(False, f"HTTP probe failed with statuscode: {response.status}")


async def watch(
    probe: Probe, execute: Execute, *, passed: Callable[[], None], failed: Callable[[str], None], once: bool = False
) -> None:
    """Probe for ever, or until the first pass if `once`. `passed` and `failed` are called each time a threshold is met."""
    await asyncio.sleep(probe.initial_delay)
    streak, last = 0, True
    while True:
        result = await probe.once(execute)
        streak = streak + 1 if result.passed == last else 1
        last = result.passed
        if result.passed and streak >= probe.successes:
            passed()
            if once:
                return
        elif not result.passed and streak >= probe.failures:
            failed(result.message)
            streak = 0
        await asyncio.sleep(probe.period * random.uniform(0.95, 1.05))
