from __future__ import annotations

import asyncio

import pytest

from dynvol.rpc.errors import OperationPending, ShuttingDown
from dynvol.rpc.operations import Operations


class Work:
    """Something that takes until it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.failure: Exception | None = None
        self.let_go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        await self.let_go.wait()
        self.ended += 1
        if self.failure is not None:
            raise self.failure
        return self.begun


async def test_asking_again_for_what_is_under_way_joins_it() -> None:
    work = Work()
    async with Operations() as operations, asyncio.TaskGroup() as callers:
        asked = [callers.create_task(operations.run("v", request="publish", work=work)) for _ in range(5)]
        await asyncio.sleep(0)
        work.let_go.set()
    assert [task.result() for task in asked] == [1] * 5


async def test_asking_after_the_end_does_it_again() -> None:
    work = Work()
    work.let_go.set()
    async with Operations() as operations:
        assert await operations.run("v", request="publish", work=work) == 1
        assert await operations.run("v", request="publish", work=work) == 2


async def test_another_request_for_the_same_key_is_turned_away_until_the_first_has_ended() -> None:
    work = Work()
    async with Operations() as operations, asyncio.TaskGroup() as callers:
        callers.create_task(operations.run("v", request="publish", work=work))
        await asyncio.sleep(0)
        with pytest.raises(OperationPending, match="operation on v"):
            await operations.run("v", request="unpublish", work=work)
        work.let_go.set()
        await operations.run("v", request="publish", work=work)
        assert await operations.run("v", request="unpublish", work=work) == 2


async def test_keys_do_not_wait_for_each_other() -> None:
    slow, quick = Work(), Work()
    quick.let_go.set()
    async with Operations() as operations, asyncio.TaskGroup() as callers:
        callers.create_task(operations.run("a", request="publish", work=slow))
        await asyncio.sleep(0)
        assert await operations.run("b", request="publish", work=quick) == 1
        slow.let_go.set()


async def test_a_caller_that_goes_away_does_not_end_the_work_and_the_next_one_joins_it() -> None:
    work = Work()
    async with Operations() as operations, asyncio.TaskGroup() as callers:
        first = callers.create_task(operations.run("v", request="publish", work=work))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        second = callers.create_task(operations.run("v", request="publish", work=work))
        await asyncio.sleep(0)
        work.let_go.set()
    assert first.cancelled()
    assert second.result() == 1


async def test_all_who_wait_hear_of_a_failure_and_the_next_one_may_try_again() -> None:
    work = Work()
    work.failure = ValueError("no")
    async with Operations() as operations, asyncio.TaskGroup() as callers:
        asked = [callers.create_task(_outcome(operations, work)) for _ in range(3)]
        await asyncio.sleep(0)
        work.let_go.set()
        await asyncio.wait(asked)
        assert [str(task.result()) for task in asked] == ["no"] * 3
        work.failure = None
        assert await operations.run("v", request="publish", work=work) == 2


async def test_a_failure_that_no_one_waits_for_is_logged_and_harms_no_one(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    work.failure = ValueError("no")
    async with Operations() as operations, asyncio.TaskGroup() as callers:
        only = callers.create_task(operations.run("v", request="publish", work=work))
        await asyncio.sleep(0)
        only.cancel()
        await asyncio.wait([only])
        work.let_go.set()
    assert "failed after its caller had gone" in caplog.text


async def test_leaving_waits_for_what_is_under_way() -> None:
    work = Work()
    async with Operations() as operations:
        caller = asyncio.create_task(operations.run("v", request="publish", work=work))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(work.let_go.set)
    assert (work.ended, await caller) == (1, 1)


@pytest.mark.looptime
async def test_leaving_does_not_wait_for_ever() -> None:
    work = Work()
    loop = asyncio.get_running_loop()
    async with Operations(grace=20) as operations:
        caller = asyncio.create_task(operations.run("v", request="publish", work=work))
        await asyncio.sleep(0)
        left = loop.time()
    assert loop.time() - left == 20
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_nothing_new_is_begun_while_leaving() -> None:
    work = Work()
    async with Operations() as operations:
        caller = asyncio.create_task(operations.run("v", request="publish", work=work))
        late = asyncio.create_task(_late(operations, work))
        await asyncio.sleep(0)
    await caller
    assert isinstance(await late, ShuttingDown)


async def _outcome(operations: Operations, work: Work) -> Exception | None:
    try:
        await operations.run("v", request="publish", work=work)
    except Exception as error:
        return error
    return None


async def _late(operations: Operations, work: Work) -> Exception | None:
    await asyncio.sleep(0.01)
    try:
        await operations.run("w", request="publish", work=work)
    except ShuttingDown as error:
        return error
    finally:
        work.let_go.set()
    return None
