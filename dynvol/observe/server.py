"""The port that Prometheus and kubelet's probes talk to.

It has `/metrics`, `/healthz` (also called `/livez`) and `/readyz`; `?verbose` lists the checks. Plain HTTP without authentication,
as probes need it: nothing secret is told, and nothing can be changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from .health import Checks, Health
from .metrics import CONTENT_TYPE, Metrics

GRACE: Final = 1.0
"""Seconds for a scrape that is under way when the process ends."""


@asynccontextmanager
async def serve(host: str, port: int, *, health: Health, metrics: Metrics) -> AsyncIterator[int]:
    """Listens while the block lasts; gives the port, for those who asked for 0."""
    runner = web.AppRunner(_application(health, metrics), access_log=None, shutdown_timeout=GRACE)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
        await health.aclose()


def _application(health: Health, metrics: Metrics) -> web.Application:
    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/healthz", _answer("healthz", health.alive))
    app.router.add_get("/livez", _answer("livez", health.alive))
    app.router.add_get("/readyz", _answer("readyz", health.ready, tell=lambda well: metrics.ready(yes=well)))
    return app


def _answer(
    question: str, checks: Checks, *, tell: Callable[[bool], None] = lambda _: None
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        report = await checks.report()
        tell(report.well)
        text = report.text(question, verbose="verbose" in request.query)
        return web.Response(text=f"{text}\n", status=200 if report.well else 503)

    return answer
