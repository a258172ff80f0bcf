from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dynvol.runtime.controller import DONE, Controller, Done, RequeueAfter, Result
from dynvol.runtime.errors import Contended, SyncTimeout, TerminalError, Throttled, Unavailable
from dynvol.runtime.informer import Informer

from .collection import Collection, Thing
from .measured import Measured
from .tasks import cancelled, pass_time, running, settle

pytestmark = pytest.mark.looptime


def name(of: Thing) -> tuple[str, ...]:
    return (of.metadata.key,)


class Reconciler:
    """Does as it is told for a key, once for each instruction, and is done with it otherwise. Remembers when it was called."""

    def __init__(self, **instructions: list[Exception | Result]) -> None:
        self.instructions = instructions
        self.calls: list[tuple[str, float]] = []

    async def __call__(self, key: str) -> Result:
        self.calls.append((key, round(asyncio.get_running_loop().time(), 3)))
        instructions = self.instructions.get(key, [])
        what = instructions.pop(0) if instructions else DONE
        if isinstance(what, Exception):
            raise what
        return what

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.calls]

    def times(self, key: str) -> list[float]:
        return [at for called, at in self.calls if called == key]


def a_controller(reconcile: Callable[[str], Awaitable[Result]], **more: Any) -> Controller:
    return Controller("test", reconcile, **more)


@asynccontextmanager
async def controlling(
    server: Collection, reconcile: Callable[[str], Awaitable[Result]], **more: Any
) -> AsyncIterator[Informer[Thing]]:
    """A controller of `server`'s things by name, at work."""
    informer: Informer[Thing] = Informer(server, name="things", chance=lambda: 0.0)
    controller = a_controller(reconcile, **more)
    controller.watch(informer, name)
    async with running(informer.run()), running(controller.run()):
        await settle()
        yield informer


# What is reconciled


async def test_a_reconcile_is_given_a_key_and_nothing_else() -> None:
    server, reconciler = Collection(), Reconciler()
    async with controlling(server, reconciler):
        server.put("a")
        await settle()
        server.put("a")
        await settle()
        server.delete("a")
        await settle()
        assert reconciler.keys == ["a", "a", "a"]


async def test_a_missing_object_is_a_clean_up_and_no_error() -> None:
    server = Collection()
    world: set[str] = set()

    async def reconcile(key: str) -> Result:
        if informer.store.get(key) is None:
            world.discard(key)
        else:
            world.add(key)
        return DONE

    async with controlling(server, reconcile) as informer:
        server.put("a")
        server.put("b")
        await settle()
        assert world == {"a", "b"}
        server.delete("a")
        await settle()
        assert world == {"b"}


async def test_a_change_of_owner_enqueues_the_old_and_the_new() -> None:
    server, reconciler = Collection(), Reconciler()
    server.put("child", owners=("old", "both"))
    informer: Informer[Thing] = Informer(server, name="things")
    controller = a_controller(reconciler)
    controller.watch(informer, lambda of: of.owners)
    async with running(informer.run()), running(controller.run()):
        await settle()
        reconciler.calls.clear()
        server.put("child", owners=("both", "new"))
        await settle()
        assert sorted(reconciler.keys) == ["both", "new", "old"]
        reconciler.calls.clear()
        server.delete("child")
        await settle()
        assert sorted(reconciler.keys) == ["both", "new"]


async def test_changes_that_do_not_matter_can_be_left_out() -> None:
    server, reconciler = Collection(), Reconciler()
    informer: Informer[Thing] = Informer(server, name="things")
    controller = a_controller(reconciler)
    controller.watch(informer, name, when=lambda change: change.old is None)
    async with running(informer.run()), running(controller.run()):
        await settle()
        server.put("a")
        await settle()
        server.put("a")
        await settle()
        assert reconciler.keys == ["a"]


async def test_what_the_first_list_brings_is_reconciled_after_what_happens() -> None:
    server, reconciler = Collection(), Reconciler()
    for listed in ("listed 1", "listed 2"):
        server.put(listed)
    informer: Informer[Thing] = Informer(server, name="things")
    controller = a_controller(reconciler, workers=1)
    controller.watch(informer, name)
    async with running(informer.run()):
        await informer.synced()
        server.put("live")
        await settle()
        async with running(controller.run()):
            await settle()
    assert reconciler.keys == ["live", "listed 1", "listed 2"]


async def test_a_key_can_be_enqueued_by_hand_now_or_later() -> None:
    reconciler = Reconciler()
    controller = a_controller(reconciler)
    async with running(controller.run()):
        controller.enqueue("now")
        controller.enqueue("later", after=30.0)
        await pass_time(60)
    assert reconciler.calls == [("now", 0.0), ("later", 30.0)]


# How it ends


async def test_after_success_failures_are_forgotten() -> None:
    reconciler = Reconciler(a=[Unavailable(), Unavailable(), DONE, Unavailable()])
    controller = a_controller(reconciler)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(1)
        assert reconciler.times("a") == [0.0, 0.005, 0.015]
        controller.enqueue("a")
        await pass_time(1)
        assert reconciler.times("a")[3:] == pytest.approx([1.0, 1.005])


async def test_an_error_is_retried_at_growing_intervals() -> None:
    reconciler = Reconciler(a=[ValueError()] * 5)
    controller = a_controller(reconciler)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(60)
    assert reconciler.times("a") == pytest.approx([0.0, 0.005, 0.015, 0.035, 0.075, 0.155])


async def test_a_terminal_error_is_not_retried_until_something_changes() -> None:
    server, reconciler = Collection(), Reconciler(a=[TerminalError("no such provider")])
    async with controlling(server, reconciler):
        server.put("a")
        await pass_time(3600)
        assert reconciler.keys == ["a"]
        server.put("a")
        await settle()
        assert reconciler.keys == ["a", "a"]


async def test_after_a_terminal_error_failures_are_forgotten() -> None:
    reconciler = Reconciler(a=[ValueError(), ValueError(), TerminalError(), ValueError()])
    controller = a_controller(reconciler)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(1)
        controller.enqueue("a")
        await pass_time(1)
    assert reconciler.times("a") == pytest.approx([0.0, 0.005, 0.015, 1.0, 1.005])


async def test_terminal_errors_in_a_group_are_terminal_only_if_all_are() -> None:
    both = ExceptionGroup("two", [TerminalError(), ExceptionGroup("inner", [TerminalError()])])
    one = ExceptionGroup("two", [TerminalError(), Unavailable()])
    reconciler = Reconciler(both=[both], one=[one])
    controller = a_controller(reconciler)
    async with running(controller.run()):
        controller.enqueue("both")
        controller.enqueue("one")
        await pass_time(60)
    assert sorted(reconciler.keys) == ["both", "one", "one"]


async def test_a_server_that_asks_a_reconcile_for_patience_is_given_it() -> None:
    reconciler = Reconciler(a=[Throttled("slow down", retry_after=20.0)])
    controller = a_controller(reconciler)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(60)
    assert reconciler.times("a") == [0.0, 20.0]


async def test_requeue_after_forgets_failures_and_comes_back_in_time() -> None:
    reconciler = Reconciler(a=[ValueError(), ValueError(), RequeueAfter(10.0), ValueError()])
    controller = a_controller(reconciler)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(60)
    assert reconciler.times("a") == pytest.approx([0.0, 0.005, 0.015, 10.015, 10.02])


async def test_contention_is_no_failure_and_never_slows_down(caplog: pytest.LogCaptureFixture) -> None:
    reconciler = Reconciler(a=[ValueError(), *[Contended("somebody wrote")] * 3, ValueError()])
    controller = a_controller(reconciler)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(60)
    assert reconciler.times("a") == pytest.approx([0.0, 0.005, 1.005, 2.005, 3.005, 3.01])
    assert not [record for record in caplog.records if record.levelname == "ERROR" and "somebody" in str(record.__dict__)]


async def test_a_change_makes_a_requeue_superfluous() -> None:
    server, reconciler = Collection(), Reconciler(a=[RequeueAfter(10.0)])
    async with controlling(server, reconciler):
        server.put("a")
        await pass_time(5)
        server.put("a")
        await pass_time(60)
    assert len(reconciler.calls) == 2


async def test_a_key_that_changes_during_its_run_is_run_again() -> None:
    server = Collection()
    runs: list[str] = []

    async def reconcile(key: str) -> Result:
        seen = informer.store.get(key)
        assert seen is not None
        runs.append(seen.metadata.resource_version)
        await asyncio.sleep(10)
        return DONE

    async with controlling(server, reconcile) as informer:
        server.put("a")
        await pass_time(5)
        server.put("a")
        server.put("a")
        await pass_time(60)
    assert runs == ["101", "103"]


# Deadlines and cancellation


async def test_every_call_has_a_deadline_and_is_retried_after_it() -> None:
    calls: list[float] = []

    async def hang(key: str) -> Result:
        calls.append(asyncio.get_running_loop().time())
        if len(calls) == 1:
            await asyncio.Event().wait()
        return DONE

    controller = a_controller(hang, deadline=30.0)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(60)
    assert calls == pytest.approx([0.0, 30.005])


async def test_one_key_that_hangs_does_not_hold_up_another() -> None:
    done: list[str] = []

    async def reconcile(key: str) -> Result:
        if key == "hangs":
            await asyncio.Event().wait()
        done.append(key)
        return DONE

    controller = a_controller(reconcile, workers=2)
    async with running(controller.run()):
        controller.enqueue("hangs")
        controller.enqueue("a")
        controller.enqueue("b")
        await settle()
        assert done == ["a", "b"]


async def test_cancelling_a_controller_cancels_what_it_is_doing() -> None:
    ended: list[str] = []

    async def reconcile(key: str) -> Result:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(key)
        return DONE

    controller = a_controller(reconcile)
    async with running(controller.run()) as task:
        controller.enqueue("a")
        controller.enqueue("b")
        await settle()
        await cancelled(task)
        assert task.cancelled()
    assert sorted(ended) == ["a", "b"]


async def test_a_cancellation_that_is_not_for_the_worker_is_a_failure_of_the_reconcile() -> None:
    calls: list[float] = []

    async def reconcile(key: str) -> Result:
        calls.append(asyncio.get_running_loop().time())
        if len(calls) == 1:
            somebody_elses = asyncio.create_task(asyncio.sleep(100))
            asyncio.get_running_loop().call_later(1.0, somebody_elses.cancel)
            await somebody_elses
        return DONE

    controller = a_controller(reconcile, workers=1)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(10)
    assert calls == pytest.approx([0.0, 1.005])


async def test_a_failed_run_gives_its_key_back() -> None:
    measured = Measured()
    controller = a_controller(Reconciler(a=[ValueError()]), queue_metrics=measured, workers=1)
    async with running(controller.run()):
        controller.enqueue("a")
        await pass_time(10)
        assert measured.queues["test"].unfinished_work_seconds == 0.0
        assert len(measured.seconds["worked"]) == 2


async def test_a_busy_queue_leaves_the_loop_to_others() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def reconcile(key: str) -> Result:
        return DONE

    controller = a_controller(reconcile, workers=1)
    for key in range(100):
        controller.enqueue(str(key))
    async with running(other()), running(controller.run()) as run:
        controller.shut_down()
        await run
    assert turns >= 100


# Starting and stopping


async def test_workers_start_when_all_caches_are_synced() -> None:
    quick, slow, reconciler = Collection(), Collection(), Reconciler()
    quick.put("a")
    slow.fail("watch", *[Unavailable()] * 3)
    informers: list[Informer[Thing]] = [Informer(server, name="things", chance=lambda: 0.0) for server in (quick, slow)]
    controller = a_controller(reconciler)
    for informer in informers:
        controller.watch(informer, name)
    async with running(informers[0].run()), running(informers[1].run()), running(controller.run()):
        await pass_time(5)
        assert reconciler.calls == []
        await pass_time(5)
        assert reconciler.keys == ["a"]


async def test_a_cache_that_does_not_sync_in_two_minutes_is_fatal_and_named() -> None:
    server = Collection()
    server.fail("list", *[Unavailable()] * 1000)
    never: Informer[Thing] = Informer(server, name="claims", streaming=False)
    controller = a_controller(Reconciler())
    controller.watch(never, name)
    began = asyncio.get_running_loop().time()
    async with running(never.run()):
        with pytest.raises(SyncTimeout, match="claims"):
            await controller.run()
    assert asyncio.get_running_loop().time() - began == pytest.approx(120.0)


async def test_a_controller_that_is_shut_down_finishes_what_is_queued_and_ends() -> None:
    done: list[str] = []

    async def reconcile(key: str) -> Result:
        await asyncio.sleep(5)
        done.append(key)
        return DONE

    controller = a_controller(reconcile, workers=1)
    async with running(controller.run()) as task:
        controller.enqueue("a")
        controller.enqueue("b")
        await settle()
        controller.shut_down()
        controller.enqueue("c")
        await task
    assert done == ["a", "b"]


async def test_a_controller_that_has_ended_hears_nothing_more() -> None:
    server, measured = Collection(), Measured()
    async with controlling(server, Reconciler()) as informer:
        controller = a_controller(Reconciler(), queue_metrics=measured)
        controller.watch(informer, name)
        async with running(controller.run()):
            server.put("a")
            await settle()
        server.put("b")
        await settle()
        assert measured.counts["added"] == 1


async def test_without_a_deadline_a_controller_waits_for_its_caches_as_long_as_it_takes() -> None:
    server, reconciler = Collection(), Reconciler()
    server.put("a")
    server.fail("watch", *[Unavailable()] * 100)
    async with controlling(server, reconciler, sync_deadline=None):
        await pass_time(24 * 3600)
        assert reconciler.keys == ["a"]


# What it tells


async def test_results_are_counted_and_failures_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    measured = Measured()
    reconciler = Reconciler(fails=[ValueError("oops")], gives_up=[TerminalError("never")], again=[RequeueAfter(1.0)])
    controller = a_controller(reconciler, metrics=measured, workers=1)
    async with running(controller.run()):
        for key in ("fails", "gives_up", "again"):
            controller.enqueue(key)
        await pass_time(10)
    assert measured.results == ["error", "terminal", "requeue_after", "success", "success"]
    failures = [record.__dict__ for record in caplog.records if record.levelname == "ERROR"]
    assert [(f["key"], f["error"], f["failures"]) for f in failures] == [
        ("fails", "ValueError: oops", 1),
        ("gives_up", "TerminalError: never", 0),
    ]


async def test_busy_workers_are_counted() -> None:
    measured = Measured()

    async def reconcile(key: str) -> Result:
        await asyncio.sleep(1)
        return Done()

    controller = a_controller(reconcile, metrics=measured, workers=2)
    async with running(controller.run()):
        controller.enqueue("a")
        controller.enqueue("b")
        await pass_time(10)
    assert measured.active == [0, 1, 2, 1, 0]
