"""The network is as bad as it is told to be, and well again afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from e2e.chaos import proxy
from e2e.chaos.proxy import Mood, Proxy
from e2e.cluster.lifecycle import free_port


@asynccontextmanager
async def network() -> AsyncIterator[tuple[Proxy, aiohttp.ClientSession]]:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(body=await request.read() or b"hello")

    application = web.Application()
    application.router.add_route("*", "/", hello)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with Proxy(port) as between, aiohttp.ClientSession(trust_env=False) as session:
            yield between, session
    finally:
        await runner.cleanup()


async def said(session: aiohttp.ClientSession, at: Proxy, *, within: float = 20.0) -> str:
    async with session.post(at.endpoint, data=b"x" * 200_000, timeout=aiohttp.ClientTimeout(total=within)) as answer:
        return f"{answer.status} {len(await answer.read())}"


async def test_it_passes_everything_on() -> None:
    async with network() as (between, session):
        assert await said(session, between) == await said(session, between) == "200 200000"


async def test_it_can_be_down_and_up_again_at_the_same_place() -> None:
    async with network() as (between, session):
        await said(session, between)
        await between.become(Mood.DOWN)
        with pytest.raises(aiohttp.ClientError):
            await said(session, between)
        await between.become(Mood.WELL)
        assert await said(session, between) == "200 200000"


async def test_it_can_refuse() -> None:
    async with network() as (between, session):
        await between.become(Mood.REFUSING)
        async with session.get(between.endpoint) as answer:
            assert answer.status == 503
        await between.become(Mood.WELL)
        assert await said(session, between) == "200 200000"


async def test_it_can_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "DELAY", 0.2)
    async with network() as (between, session):
        await between.become(Mood.SLOW)
        with pytest.raises(TimeoutError):
            await said(session, between, within=0.15)
        assert (await said(session, between)).startswith("200")


async def test_a_black_hole_takes_questions_and_answers_none_and_lets_go_when_it_is_gone() -> None:
    async with network() as (between, session):
        await between.become(Mood.BLACK_HOLE)
        asked = asyncio.create_task(said(session, between))
        done, _ = await asyncio.wait({asked}, timeout=0.3)
        assert not done
        await between.become(Mood.WELL)
        with pytest.raises(aiohttp.ClientError):
            await asked
        assert await said(session, between) == "200 200000"
