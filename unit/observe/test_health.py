from __future__ import annotations

import asyncio

import aiohttp
import pytest

from dynvol.observe import health
from dynvol.observe.health import Checks, Health, Unwell
from dynvol.observe.metrics import Metrics
from dynvol.observe.server import serve


def fails() -> None:
    raise Unwell("the API server does not answer")


async def passes() -> None:
    await asyncio.sleep(0)


async def get(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_a_process_may_be_alive_and_not_ready() -> None:
    state = Health()
    state.alive.add("loop", passes)
    state.ready.add("api", fails)
    async with serve("127.0.0.1", 0, health=state, metrics=Metrics(process="node")) as port:
        assert await get(port, "/healthz") == (200, "ok\n")
        assert await get(port, "/livez") == (200, "ok\n")
        assert await get(port, "/readyz") == (
            503,
            "[+]shutdown ok\n[-]api failed: the API server does not answer\nreadyz check failed\n",
        )


async def test_verbose_lists_the_checks_of_a_healthy_process_too() -> None:
    state = Health()
    state.ready.add("caches", passes)
    async with serve("127.0.0.1", 0, health=state, metrics=Metrics(process="node")) as port:
        assert await get(port, "/readyz?verbose") == (200, "[+]shutdown ok\n[+]caches ok\nreadyz check passed\n")


async def test_the_answer_follows_the_world() -> None:
    state, up = Health(), False
    state.ready.add("socket", health.holds(lambda: up, "the CSI socket is not there"))
    assert not (await state.ready.report()).well
    up = True
    assert (await state.ready.report()).well


async def test_a_process_that_shuts_down_is_alive_and_not_ready() -> None:
    state = Health()
    state.drain()
    assert (await state.alive.report()).well
    assert "shutting down" in (await state.ready.report()).text("readyz", verbose=False)


async def test_a_dead_task_is_a_dead_process() -> None:
    state = Health()
    task: asyncio.Task[object] = asyncio.create_task(passes(), name="informer pods")
    state.alive.add("pods", health.running(task))
    assert (await state.alive.report()).well
    await task
    assert "informer pods has ended" in (await state.alive.report()).text("healthz", verbose=False)


@pytest.mark.looptime
async def test_a_check_that_hangs_is_a_failure_and_is_not_started_again() -> None:
    started = 0

    async def hangs() -> None:
        nonlocal started
        started += 1
        await asyncio.Event().wait()

    checks = Checks(deadline=3)
    checks.add("stuck", hangs)
    checks.add("fine", passes)
    for _ in range(3):
        report = await checks.report()
        assert [(f.name, f.problem) for f in report.findings] == [("stuck", "no answer in time"), ("fine", "")]
    assert started == 1
    await checks.aclose()


async def test_any_exception_is_a_failure_with_its_text() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    checks = Checks()
    checks.add("a", broken)
    assert (await checks.report()).findings[0].problem == "ZeroDivisionError"


def test_two_checks_cannot_share_a_name() -> None:
    checks = Checks()
    checks.add("a", passes)
    with pytest.raises(ValueError, match="already"):
        checks.add("a", passes)
