"""Mount work that outlives its callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from dynvol.mount.errors import ExecutorClosed, ExecutorSaturated
from dynvol.mount.executor import MountExecutor


class Door:
    """Work that waits until it is let go. `entered` counts how often it was begun."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.begun = threading.Semaphore(0)
        self.entered = 0

    def work(self, answer: str = "done") -> str:
        self.entered += 1
        self.begun.release()
        assert self.opened.wait(20)
        return answer

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.opened.set()


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_result_and_the_error_come_back() -> None:
    async with MountExecutor() as executor:
        assert await executor.run("key", divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await executor.run("key", divmod, 1, 0)
        assert (executor.stats.finished, executor.stats.failed) == (2, 1)


async def test_a_repeated_call_joins(door: Door) -> None:
    async with MountExecutor() as executor:
        calls = [asyncio.create_task(executor.run("key", door.work, answer="same")) for _ in range(5)]
        await door.has_begun()
        door.opened.set()
        assert await asyncio.gather(*calls) == ["same"] * 5
        assert door.entered == 1 and executor.stats.joined == 4


async def test_an_ended_call_is_not_joined(door: Door) -> None:
    door.opened.set()
    async with MountExecutor() as executor:
        await executor.run("key", door.work)
        await executor.run("key", door.work)
    assert door.entered == 2


async def test_cancelling_the_caller_leaves_the_work_to_be_joined(door: Door) -> None:
    async with MountExecutor() as executor:
        first = asyncio.create_task(executor.run("key", door.work))
        await door.has_begun()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(executor.run("key", door.work))
        await turns()
        door.opened.set()
        assert await second == "done" and door.entered == 1


async def test_calls_of_one_key_run_one_after_another_in_order(door: Door) -> None:
    order: list[str] = []

    def note(name: str) -> str:
        order.append(name)
        return name

    async with MountExecutor() as executor:
        calls = [asyncio.create_task(executor.run("key", door.work))]
        calls += [asyncio.create_task(executor.run("key", note, name)) for name in "abc"]
        await door.has_begun()
        assert order == [] and executor.stats.running == 1 and executor.stats.waiting == 3
        door.opened.set()
        await asyncio.gather(*calls)
    assert order == ["a", "b", "c"]


async def test_a_call_after_another_one_does_not_join_the_one_before_that() -> None:
    """publish, unpublish, publish: the last one must run."""
    door, order = Door(), []

    def publish() -> None:
        order.append("publish")
        door.work()

    def unpublish() -> None:
        order.append("unpublish")

    async with MountExecutor() as executor:
        calls = [asyncio.create_task(executor.run("key", work)) for work in (publish, unpublish, publish)]
        await door.has_begun()
        door.opened.set()
        await asyncio.gather(*calls)
    assert order == ["publish", "unpublish", "publish"]


async def test_an_error_of_one_call_does_not_reach_the_next_of_its_key() -> None:
    async with MountExecutor() as executor:
        failing = asyncio.create_task(executor.run("key", divmod, 1, 0))
        assert await executor.run("key", divmod, 4, 2) == (2, 0)
        with pytest.raises(ZeroDivisionError):
            await failing


async def test_a_call_that_hangs_holds_up_its_own_key_only(door: Door) -> None:
    async with MountExecutor(threads=2) as executor:
        hanging = asyncio.create_task(executor.run("dead", door.work))
        await door.has_begun()
        assert await executor.run("alive", divmod, 5, 3) == (1, 2)
        door.opened.set()
        await hanging


async def test_threads_are_bounded(door: Door) -> None:
    async with MountExecutor(threads=2) as executor:
        calls = [asyncio.create_task(executor.run(f"key {n}", door.work)) for n in range(6)]
        await door.has_begun()
        await door.has_begun()
        await turns(10)
        assert executor.stats.running == 2 and executor.stats.waiting == 4 and door.entered == 2
        door.opened.set()
        await asyncio.gather(*calls)
        assert door.entered == 6


async def test_when_every_thread_is_stuck_a_new_call_is_refused_and_a_repeated_one_joins(door: Door) -> None:
    async with MountExecutor(threads=1, stuck_after=0.0) as executor:
        hanging = asyncio.create_task(executor.run("dead", door.work))
        await door.has_begun()
        await turns()
        assert executor.stats.stuck == 1 and executor.stuck() == ("dead",)
        with pytest.raises(ExecutorSaturated, match="dead"):
            await executor.run("other", divmod, 1, 1)
        again = asyncio.create_task(executor.run("dead", door.work))
        await turns()
        door.opened.set()
        assert await hanging == await again == "done"


async def test_leaving_waits_for_work_whose_caller_is_gone(door: Door) -> None:
    async with MountExecutor() as executor:
        call = asyncio.create_task(executor.run("key", door.work))
        await door.has_begun()
        call.cancel()
        await asyncio.wait((call,))
        asyncio.get_running_loop().call_later(0.01, door.opened.set)
    assert executor.stats.finished == 1


async def test_leaving_does_not_wait_for_ever(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    async with MountExecutor(drain=0.01) as executor:
        call = asyncio.create_task(executor.run("key", door.work))
        await door.has_begun()
    with pytest.raises(ExecutorClosed):
        await call
    assert "did not end in time" in caplog.text
    with pytest.raises(ExecutorClosed):
        await executor.run("key", divmod, 1, 1)


async def test_an_error_that_no_one_waits_for_is_logged_once(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        door.work()
        raise OSError("too late")

    async with MountExecutor() as executor:
        call = asyncio.create_task(executor.run("key", fail))
        await door.has_begun()
        call.cancel()
        await asyncio.wait((call,))
        door.opened.set()
    assert caplog.text.count("no one waits for it") == 1


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("mount-")}


async def test_threads_with_nothing_to_do_are_few_and_used_again_and_end_with_it() -> None:
    together = threading.Barrier(12)
    before = workers()
    async with MountExecutor() as executor:
        await asyncio.gather(*(executor.run(f"key {number}", together.wait, 10) for number in range(12)))
        kept = {await executor.run("key", threading.current_thread) for _ in range(20)}
        assert len(kept) == 1 and kept <= workers()
        await until(lambda: len(workers() - before) == 4)
    await until(lambda: workers() <= before)


async def test_a_thread_that_hung_ends_when_its_call_does(door: Door) -> None:
    before = workers()
    async with MountExecutor(drain=0.01) as executor:
        hangs = asyncio.create_task(executor.run("key", door.work))
        await door.has_begun()
    with pytest.raises(ExecutorClosed):
        await hangs
    assert workers() > before
    door.opened.set()
    await until(lambda: workers() <= before)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
