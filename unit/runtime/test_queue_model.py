"""The queue against a model so simple that it is plainly right, through whatever sequence of calls hypothesis thinks of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import looptime
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dynvol.runtime.queue import WorkQueue

T = TypeVar("T")

KEYS = "abcde"
keys = st.sampled_from(KEYS)


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop(start=0)
        self.queue: WorkQueue[str] = WorkQueue(name="model", clock=self.loop.time)
        self.live: list[str] = []
        self.listed: list[str] = []
        self.in_work: set[str] = set()
        self.again: set[str] = set()
        self.due: dict[str, float] = {}

    def teardown(self) -> None:
        self.queue.shut_down()
        self.loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = self.loop.run_until_complete(asyncio.wait_for(work, 1000))
        return result

    def model_add(self, key: str) -> None:
        self.due.pop(key, None)
        if key in self.listed:
            self.listed.remove(key)
        if key in self.in_work:
            self.again.add(key)
        elif key not in self.live:
            self.live.append(key)

    @rule(key=keys)
    def add(self, key: str) -> None:
        self.queue.add(key)
        self.model_add(key)

    @rule(key=keys)
    def add_later(self, key: str) -> None:
        self.queue.add(key, later=True)
        self.due.pop(key, None)
        if key in self.in_work:
            self.again.add(key)
        elif key not in self.live and key not in self.listed:
            self.listed.append(key)

    @rule(key=keys, seconds=st.integers(1, 5))
    def add_after(self, key: str, seconds: int) -> None:
        # Each key has a fraction of a second of its own, so that no two are due at one time: no order is promised then.
        when = int(self.loop.time()) + seconds + (KEYS.index(key) + 1) / 16
        delay = when - self.loop.time()

        async def call() -> None:
            self.queue.add_after(key, delay)

        self.do(call())
        if key not in self.live and key not in self.listed and key not in self.again:
            self.due[key] = min(when, self.due.get(key, when))

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        until = int(self.loop.time()) + seconds
        self.do(asyncio.sleep(until - self.loop.time()))
        for key in sorted((k for k, when in self.due.items() if when < until), key=lambda k: self.due[k]):
            self.model_add(key)

    @precondition(lambda self: self.live or self.listed)
    @rule()
    def get(self) -> None:
        expected = (self.live or self.listed).pop(0)
        assert self.do(self.queue.get()) == expected
        self.in_work.add(expected)

    @precondition(lambda self: self.in_work)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.in_work)))
        self.queue.done(key)
        self.in_work.remove(key)
        if key in self.again:
            self.again.remove(key)
            self.live.append(key)

    @invariant()
    def what_is_queued_is_dirty_and_not_processing(self) -> None:
        queued = {*self.queue._queued, *self.queue._queued_later}
        assert queued == self.queue._dirty.keys() - self.queue._processing.keys()
        assert not queued & self.queue._processing.keys()
        assert len(queued) == len(self.queue)

    @invariant()
    def what_is_delayed_is_not_dirty(self) -> None:
        assert not self.queue._delayed.keys() & self.queue._dirty.keys()

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert list(self.queue._queued) == self.live
        assert list(self.queue._queued_later) == self.listed
        assert set(self.queue._processing) == self.in_work
        assert set(self.queue._delayed) == set(self.due)
        assert self.queue.depth == len(self.live) + len(self.listed) + len(self.again)


TestQueueModel = QueueMachine.TestCase
TestQueueModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
