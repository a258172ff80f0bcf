from __future__ import annotations

import asyncio
import random

import pytest

from dynvol.runtime.errors import QueueShutDown
from dynvol.runtime.queue import WorkQueue

from .measured import Measured
from .tasks import cancelled, running, settle

pytestmark = pytest.mark.looptime


def a_queue() -> WorkQueue[str]:
    return WorkQueue(name="test")


async def drain(queue: WorkQueue[str]) -> list[str]:
    """All that can be had at once, in order."""
    found = []
    while len(queue):
        found.append(key := await queue.get())
        queue.done(key)
    return found


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_keys_come_out_in_the_order_in_which_they_went_in() -> None:
    queue = a_queue()
    for key in "badce":
        queue.add(key)
    assert await drain(queue) == list("badce")


async def test_many_adds_before_a_get_are_one_run() -> None:
    queue = a_queue()
    for key in "abaabb":
        queue.add(key)
    assert len(queue) == 2
    assert await drain(queue) == ["a", "b"]


async def test_a_key_added_while_it_is_in_work_runs_once_more_when_that_is_done() -> None:
    queue = a_queue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await drain(queue) == ["a"]


async def test_a_key_is_never_with_two_workers() -> None:
    queue = a_queue()
    chance = random.Random(7)
    at_work: set[str] = set()
    runs = 0

    async def worker() -> None:
        nonlocal runs
        while True:
            try:
                key = await queue.get()
            except QueueShutDown:
                return
            assert key not in at_work
            at_work.add(key)
            await asyncio.sleep(chance.random())
            at_work.remove(key)
            runs += 1
            queue.done(key)

    async with asyncio.TaskGroup() as workers:
        for _ in range(4):
            workers.create_task(worker())
        for _ in range(300):
            queue.add(chance.choice("abcde"))
            await asyncio.sleep(chance.random() / 10)
        queue.shut_down()
    assert runs > 20


async def test_a_key_that_is_added_again_goes_to_the_tail() -> None:
    queue = a_queue()
    for key in "abc":
        queue.add(key)
    first = await queue.get()
    queue.add(first)
    queue.done(first)
    assert await drain(queue) == ["b", "c", "a"]


async def test_a_getter_waits_for_a_key() -> None:
    queue = a_queue()
    async with running(queue.get()) as getter:
        await settle()
        assert not getter.done()
        queue.add("a")
        assert await getter == "a"


async def test_done_without_a_get_is_a_mistake() -> None:
    queue = a_queue()
    queue.add("a")
    with pytest.raises(KeyError):
        queue.done("a")


# Shutting down


async def test_after_shut_down_adds_of_any_kind_are_ignored() -> None:
    queue = a_queue()
    queue.shut_down()
    queue.add("a")
    queue.add_after("b", 1.0)
    queue.add_after("c", 0.0)
    queue.add_rate_limited("d")
    assert not queue._delayed
    await asyncio.sleep(60)
    assert len(queue) == 0


async def test_after_shut_down_getters_drain_the_queue_and_then_end() -> None:
    queue = a_queue()
    queue.add("a")
    queue.add("b")
    queue.shut_down()
    assert await drain(queue) == ["a", "b"]
    with pytest.raises(QueueShutDown):
        await queue.get()


async def test_shut_down_ends_all_getters_that_wait() -> None:
    queue = a_queue()
    async with running(asyncio.wait_for(asyncio.gather(*(queue.get() for _ in range(3)), return_exceptions=True), 1.0)) as getters:
        await settle()
        queue.shut_down()
        assert [type(outcome) for outcome in await getters] == [QueueShutDown] * 3


async def test_a_key_that_is_dirty_and_in_work_at_shut_down_comes_back_once_more() -> None:
    queue = a_queue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.shut_down()
    queue.add("a")
    queue.done("a")
    assert await drain(queue) == ["a"]
    with pytest.raises(QueueShutDown):
        await queue.get()


async def test_delayed_keys_do_not_survive_shut_down() -> None:
    queue = a_queue()
    queue.add_after("a", 5.0)
    queue.shut_down()
    await asyncio.sleep(60)
    assert len(queue) == 0


# Delays


@pytest.mark.parametrize("no_delay", [0.0, -1.0, float("nan")])
async def test_an_add_after_no_delay_is_immediate(no_delay: float) -> None:
    queue = a_queue()
    queue.add_after("a", no_delay)
    assert await drain(queue) == ["a"]


async def test_a_delayed_key_comes_when_its_time_has_come() -> None:
    queue = a_queue()
    queue.add_after("late", 20.0)
    queue.add_after("early", 10.0)
    assert len(queue) == 0
    assert (await queue.get(), now()) == ("early", 10.0)
    assert (await queue.get(), now()) == ("late", 20.0)


@pytest.mark.parametrize("delays", [(10.0, 20.0), (20.0, 10.0)])
async def test_of_two_delays_for_a_key_the_earlier_stays(delays: tuple[float, float]) -> None:
    queue = a_queue()
    for delay in delays:
        queue.add_after("a", delay)
    assert (await queue.get(), now()) == ("a", 10.0)
    queue.done("a")
    await asyncio.sleep(60)
    assert len(queue) == 0


async def test_an_immediate_add_takes_the_place_of_a_delayed_one() -> None:
    queue = a_queue()
    queue.add_after("a", 10.0)
    queue.add("a")
    assert await drain(queue) == ["a"]
    await asyncio.sleep(60)
    assert len(queue) == 0


async def test_a_delayed_add_of_a_key_that_waits_for_a_worker_is_dropped() -> None:
    queue = a_queue()
    queue.add("a")
    queue.add_after("a", 10.0)
    assert await drain(queue) == ["a"]
    await asyncio.sleep(60)
    assert len(queue) == 0


async def test_a_key_in_work_that_is_added_and_delayed_runs_once_at_done() -> None:
    queue = a_queue()
    queue.add("a")
    await queue.get()
    queue.add("a")
    queue.add_after("a", 10.0)
    queue.done("a")
    assert await drain(queue) == ["a"]
    await asyncio.sleep(60)
    assert len(queue) == 0


async def test_a_delay_that_ends_while_the_key_is_in_work_counts_as_an_add() -> None:
    queue = a_queue()
    queue.add("a")
    await queue.get()
    queue.add_after("a", 10.0)
    await asyncio.sleep(11)
    assert len(queue) == 0
    queue.done("a")
    assert await drain(queue) == ["a"]


# Failures


async def test_a_key_that_fails_comes_back_later_each_time() -> None:
    queue = a_queue()
    gaps = []
    for _ in range(4):
        before = now()
        queue.add_rate_limited("a")
        await queue.get()
        queue.done("a")
        gaps.append(now() - before)
    assert gaps == pytest.approx([0.005, 0.01, 0.02, 0.04])
    assert queue.failures("a") == 4


async def test_a_key_that_fails_can_be_held_back_longer() -> None:
    queue = a_queue()
    queue.add_rate_limited("a", at_least=7.0)
    await queue.get()
    assert now() == 7.0


async def test_forget_clears_failures_and_nothing_else() -> None:
    queue = a_queue()
    queue.add("in work")
    await queue.get()
    queue.add("queued")
    queue.add_rate_limited("delayed", at_least=5.0)
    for key in ("in work", "queued", "delayed"):
        queue.forget(key)
        assert queue.failures(key) == 0
    queue.add("in work")
    assert await queue.get() == "queued"
    queue.done("in work")
    assert await queue.get() == "in work"
    assert (await queue.get(), now()) == ("delayed", 5.0)


# The first list


async def test_what_the_first_list_brings_waits_behind_live_events() -> None:
    queue = a_queue()
    queue.add("listed 1", later=True)
    queue.add("listed 2", later=True)
    queue.add("live")
    assert await drain(queue) == ["live", "listed 1", "listed 2"]


async def test_a_live_event_brings_a_listed_key_forward() -> None:
    queue = a_queue()
    for key in "abc":
        queue.add(key, later=True)
    queue.add("b")
    assert await drain(queue) == ["b", "a", "c"]


async def test_being_listed_twice_brings_nothing_forward() -> None:
    queue = a_queue()
    queue.add("a", later=True)
    queue.add("a", later=True)
    queue.add("live")
    assert await drain(queue) == ["live", "a"]


async def test_a_list_does_not_hold_back_a_key_that_is_live() -> None:
    queue = a_queue()
    queue.add("a")
    queue.add("a", later=True)
    queue.add("b", later=True)
    queue.add("c")
    assert await drain(queue) == ["a", "c", "b"]


# Cancelled getters


async def test_a_getter_that_is_woken_and_then_cancelled_passes_its_wake_up_on() -> None:
    queue = a_queue()
    async with running(queue.get()) as first, running(queue.get()) as second:
        await settle()
        queue.add("a")
        # The add has woken the first, which has not run yet.
        first.cancel()
        assert await asyncio.wait_for(second, 1.0) == "a"
        assert first.cancelled()


async def test_a_getter_that_is_cancelled_while_it_waits_costs_nobody_a_key() -> None:
    queue = a_queue()
    async with running(queue.get()) as first, running(queue.get()) as second:
        await settle()
        await cancelled(first)
        queue.add("a")
        assert await asyncio.wait_for(second, 1.0) == "a"


async def test_a_getter_that_was_just_cancelled_is_not_woken() -> None:
    queue = a_queue()
    async with running(queue.get()) as first, running(queue.get()) as second:
        await settle()
        # It has not yet run to leave the line.
        first.cancel()
        queue.add("a")
        assert await asyncio.wait_for(second, 1.0) == "a"


async def test_getters_that_were_cancelled_are_not_remembered() -> None:
    queue = a_queue()
    for _ in range(10):
        async with running(queue.get()):
            await settle()
    assert not queue._getters


async def test_a_newcomer_that_is_quicker_than_a_woken_getter_leaves_that_waiting() -> None:
    queue = a_queue()
    async with running(queue.get()) as woken:
        await settle()
        queue.add("a")
        assert await queue.get() == "a"
        await settle()
        assert not woken.done()
        queue.add("b")
        assert await woken == "b"


async def test_no_key_is_lost_when_getters_are_cancelled_at_random() -> None:
    queue = a_queue()
    chance = random.Random(12)
    got: list[str] = []

    async def get_one() -> None:
        got.append(key := await queue.get())
        queue.done(key)

    getters = [asyncio.create_task(get_one()) for _ in range(200)]
    await settle()
    for number in range(100):
        queue.add(str(number))
        if number % 2:
            chance.choice(getters).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    await settle()
    while len(queue):
        await get_one()
    for getter in getters:
        await cancelled(getter)
    assert sorted(got, key=int) == [str(number) for number in range(100)]


# Metrics


async def test_the_queue_measures_what_client_go_measures() -> None:
    measured = Measured()
    queue: WorkQueue[str] = WorkQueue(name="claims", metrics=measured)
    gauges = measured.queues["claims"]
    queue.add("a")
    queue.add("b")
    queue.add("b")
    await asyncio.sleep(2)
    await queue.get()
    await asyncio.sleep(3)
    await queue.get()
    await asyncio.sleep(5)
    queue.add("a")
    assert (measured.counts["added"], gauges.depth) == (3, 1)
    assert measured.seconds["waited"] == pytest.approx([2.0, 5.0])
    assert gauges.unfinished_work_seconds == pytest.approx(8.0 + 5.0)
    assert gauges.longest_running_processor_seconds == pytest.approx(8.0)
    queue.done("a")
    queue.done("b")
    queue.add_rate_limited("b")
    assert measured.seconds["worked"] == pytest.approx([8.0, 5.0])
    assert measured.counts["retried"] == 1
    assert (gauges.unfinished_work_seconds, gauges.longest_running_processor_seconds) == (0.0, 0.0)
