from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dynvol.runtime.controller import DONE, Controller, RequeueAfter, Result
from dynvol.runtime.expectations import Expectations
from dynvol.runtime.informer import Informer
from dynvol.runtime.source import Modified

from .collection import Collection, Thing, thing
from .tasks import pass_time, running, settle

pytestmark = pytest.mark.looptime


@asynccontextmanager
async def a_cache(server: Collection) -> AsyncIterator[Informer[Thing]]:
    informer: Informer[Thing] = Informer(server, name="things")
    async with running(informer.run()):
        await informer.synced()
        yield informer


class Lagging(Collection):
    """Sends events only when it is told to catch up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.behind: list[object] = []
        self.lags = False

    def tell(self, event: object) -> None:
        if self.lags:
            self.behind.append(event)
        else:
            super().tell(event)  # type: ignore[arg-type]

    def catch_up(self) -> None:
        for event in self.behind:
            super().tell(event)  # type: ignore[arg-type]
        self.behind.clear()


async def test_what_was_written_is_awaited_until_the_cache_shows_it() -> None:
    server = Lagging()
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        server.lags = True
        expectations.wrote("claim", server.put("pod"))
        assert expectations.unmet("claim") == pytest.approx(30.0)
        assert expectations.unmet("another claim") == 0.0
        server.catch_up()
        await settle()
        assert expectations.unmet("claim") == 0.0


async def test_a_cache_that_was_quicker_than_the_answer_has_met_it() -> None:
    server = Collection()
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        written = server.put("pod")
        await settle()
        expectations.wrote("claim", written)
        assert expectations.unmet("claim") == 0.0


async def test_somebody_elses_earlier_write_does_not_meet_it_and_a_later_one_does() -> None:
    server = Lagging()
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        server.put("pod")
        await settle()
        server.lags = True
        earlier, mine, later = (server.put("pod") for _ in range(3))
        expectations.wrote("claim", mine)
        server.lags = False
        server.tell(Modified(earlier))
        await settle()
        assert expectations.unmet("claim") > 0.0
        server.tell(Modified(later))
        await settle()
        assert expectations.unmet("claim") == 0.0


async def test_versions_that_are_no_numbers_are_met_by_themselves_only() -> None:
    server = Collection()
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        expectations.wrote("claim", thing("pod", version="abc"))
        server.tell(Modified(thing("pod", version="abd")))
        await settle()
        assert expectations.unmet("claim") > 0.0
        server.tell(Modified(thing("pod", version="abc")))
        await settle()
        assert expectations.unmet("claim") == 0.0


async def test_an_object_that_somebody_deleted_is_not_waited_for() -> None:
    server = Lagging()
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        server.lags = True
        expectations.wrote("claim", server.put("pod"))
        server.delete("pod")
        server.catch_up()
        await settle()
        assert expectations.unmet("claim") == 0.0


async def test_a_deletion_is_awaited_until_the_cache_shows_it_or_its_successor() -> None:
    server = Lagging()
    gone, replaced = server.put("gone"), server.put("replaced")
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        server.lags = True
        server.delete("gone")
        expectations.deleted("a", gone)
        server.delete("replaced")
        server.put("replaced")
        expectations.deleted("b", replaced)
        assert expectations.unmet("a") > 0.0
        assert expectations.unmet("b") > 0.0
        server.catch_up()
        await settle()
        assert expectations.unmet("a") == expectations.unmet("b") == 0.0


async def test_a_deletion_that_the_cache_has_shown_already_is_not_awaited() -> None:
    server = Collection()
    gone, replaced = server.put("gone"), server.put("replaced")
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        for name in ("gone", "replaced"):
            server.delete(name)
        server.put("replaced")
        await settle()
        expectations.deleted("a", gone)
        expectations.deleted("b", replaced)
        assert expectations.unmet("a") == expectations.unmet("b") == 0.0


async def test_a_change_of_what_was_deleted_is_not_its_end() -> None:
    server = Lagging()
    server.put("pod")
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        last = server.put("pod")
        server.lags = True
        server.delete("pod")
        expectations.deleted("claim", last)
        await settle()
        assert expectations.unmet("claim") > 0.0


async def test_the_end_of_an_earlier_object_of_the_same_name_meets_nothing() -> None:
    server = Lagging()
    server.put("pod")
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        server.lags = True
        server.delete("pod")
        expectations.wrote("claim", server.put("pod"))
        deletion, addition = server.behind
        server.lags = False
        server.tell(deletion)
        await settle()
        assert expectations.unmet("claim") > 0.0
        server.tell(addition)
        await settle()
        assert expectations.unmet("claim") == 0.0


async def test_the_wait_for_a_write_that_never_shows_has_an_end_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    server = Lagging()
    async with a_cache(server) as cache:
        expectations = Expectations(cache, patience=10.0)
        server.lags = True
        expectations.wrote("claim", server.put("pod"))
        await pass_time(6)
        assert expectations.unmet("claim") == pytest.approx(4.0)
        await pass_time(5)
        assert expectations.unmet("claim") == 0.0
        assert expectations.unmet("claim") == 0.0
        assert [record.__dict__["key"] for record in caplog.records] == ["pod"]


async def test_expectations_of_a_key_that_is_gone_can_be_forgotten() -> None:
    server = Lagging()
    async with a_cache(server) as cache:
        expectations = Expectations(cache)
        server.lags = True
        written = server.put("pod")
        expectations.wrote("a", written)
        expectations.wrote("b", written)
        expectations.forget("a")
        assert expectations.unmet("a") == 0.0
        assert expectations.unmet("b") > 0.0


async def test_own_writes_are_not_done_twice_because_of_a_stale_cache() -> None:
    """A controller that counts before it makes one more, with names that do not protect it, and a cache that is behind."""
    server = Lagging()
    async with a_cache(server) as cache:
        expectations = Expectations(cache)

        async def three_of_them(key: str) -> Result:
            if left := expectations.unmet(key):
                return RequeueAfter(left)
            if len(cache.store) < 3:
                expectations.wrote(key, server.put(f"{key}-{server.version}"))
            return DONE

        controller = Controller("test", three_of_them)
        controller.watch(cache, lambda of: ["set"])
        server.lags = True
        async with running(controller.run()):
            for _ in range(10):
                controller.enqueue("set")
                await settle()
            assert len(server.objects) == 1
            for _ in range(10):
                server.catch_up()
                await settle()
            assert len(server.objects) == 3
