"""HTTPS for the API server's admission calls.

One POST is one review. It answers within the deadline or not at all: the API server's own timeout is longer, and what happens
then is for each webhook's failurePolicy to say. Health and metrics are served elsewhere, without TLS.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Protocol

from aiohttp import web

from dynvol.observe import logs

from .review import AdmissionRequest, Malformed, decode, encode
from .rules.verdict import Verdict

log = logs.get(__name__)

Reviewer = Callable[[AdmissionRequest], Awaitable[Verdict]]

LARGEST_BODY: Final = 8 * 1024 * 1024
"""A review carries the new object and the old one; etcd takes objects of 1.5 MiB."""
DEADLINE: Final = 4.0
"""Seconds for one review; the webhook configurations grant 5 and 10."""
GRACE: Final = 5.0
"""Seconds that calls in flight get when the server closes."""


class AdmissionMetrics(Protocol):
    def reviewed(self, path: str, *, outcome: str, seconds: float) -> None:
        """`outcome` is one of allowed, patched, denied, malformed, failed."""
        ...


class Unmeasured:
    def reviewed(self, path: str, *, outcome: str, seconds: float) -> None:
        pass


def application(
    reviewers: Mapping[str, Reviewer], *, deadline: float = DEADLINE, metrics: AdmissionMetrics | None = None
) -> web.Application:
    """`reviewers` by path, such as `/mutate-pods`."""
    app = web.Application(client_max_size=LARGEST_BODY)
    for path, reviewer in reviewers.items():
        app.router.add_post(path, _handler(path, reviewer, deadline=deadline, metrics=metrics or Unmeasured()))
    return app


def _handler(
    path: str, reviewer: Reviewer, *, deadline: float, metrics: AdmissionMetrics
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        began = time.perf_counter()
        outcome = "failed"
        try:
            async with asyncio.timeout(deadline):
                review = decode(await request.read())
                verdict = await reviewer(review)
            outcome = _outcome(verdict)
            _tell(path, review, verdict)
            return web.Response(body=encode(verdict, uid=review.uid), content_type="application/json")
        except Malformed as error:
            outcome = "malformed"
            return web.Response(status=400, text=str(error))
        except TimeoutError:
            return web.Response(status=504, text=f"no verdict within {deadline:g} s; the API server may be slow to answer dynvol")
        finally:
            metrics.reviewed(path, outcome=outcome, seconds=time.perf_counter() - began)

    return handle


def _outcome(verdict: Verdict) -> str:
    if not verdict.allowed:
        return "denied"
    return "patched" if verdict.patch else "allowed"


def _tell(path: str, review: AdmissionRequest, verdict: Verdict) -> None:
    if not verdict.allowed:
        log.info("denied", review=path, namespace=review.namespace, name=review.name, problems=list(verdict.problems))


@asynccontextmanager
async def serving(app: web.Application, *, host: str, port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Serves until the block ends, then lets calls in flight finish. Yields the port, which matters where 0 was asked for."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=context)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
