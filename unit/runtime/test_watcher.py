"""The watcher's shell: how long it waits, and for what, against a server that misbehaves."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dynvol.runtime.errors import Expired, Throttled, Unavailable
from dynvol.runtime.source import Bookmark, Event, Page, Unreadable
from dynvol.runtime.watcher import Applied, Completed, Effect, Watcher, Watching

from .collection import Collection, OldServer, Stream, Thing, WatchAsked
from .measured import Measured
from .tasks import pass_time, running, settle

pytestmark = pytest.mark.looptime

FOR_EVER = 10**6


class Told(list[Effect[Thing]]):
    """What a watcher said."""

    @property
    def names(self) -> list[str]:
        return [effect.object.metadata.name for effect in self if isinstance(effect, Applied)]

    @property
    def lists(self) -> int:
        return sum(isinstance(effect, Completed) for effect in self)


@asynccontextmanager
async def watching(
    server: Collection, *, chance: float = 0.0, streaming: bool = False, measured: Measured | None = None
) -> AsyncIterator[Told]:
    told = Told()
    watcher = Watcher(
        server, name="things", emit=told.append, streaming=streaming, chance=lambda: chance, metrics=measured or Measured()
    )
    async with running(watcher.run()):
        await settle()
        yield told


def gaps(server: Collection) -> list[float]:
    """Seconds from each request to the next."""
    times = [asked.at for asked in server.asked]
    return [round(after - before, 2) for before, after in zip(times, times[1:], strict=False)]


async def test_it_lists_and_then_watches_from_the_lists_version() -> None:
    server = Collection(version=100)
    server.put("a")
    async with watching(server) as told:
        assert [asked.version for asked in server.asked] == ["0", "101"]
        server.put("b")
        await settle()
        assert (told.lists, told.names) == (1, ["b"])


@pytest.mark.parametrize(("chance", "timeout"), [(0.0, 300.0), (0.5, 450.0), (0.999, 599.7)])
async def test_the_server_is_asked_to_end_a_watch_after_five_to_ten_minutes(chance: float, timeout: float) -> None:
    server = Collection()
    async with watching(server, chance=chance):
        assert [asked.timeout for asked in server.watches] == pytest.approx([timeout])


async def test_a_watch_that_ended_goes_on_where_it_was_without_a_list() -> None:
    server = Collection()
    async with watching(server) as told:
        server.put("a")
        server.bookmark()
        await pass_time(301)
        server.put("b")
        await settle()
        assert [asked.version for asked in server.watches] == ["100", "102"]
        assert (told.lists, told.names) == (1, ["a", "b"])


async def test_a_server_whose_data_went_back_in_time_is_followed_there() -> None:
    server = Collection(version=200)
    server.put("lost")
    async with watching(server) as told:
        # As kube-apiserver does, it takes a watch from a version that is yet to come, and says nothing.
        server.version = 50
        server.objects.clear()
        await pass_time(301)
        assert [asked.version for asked in server.lists] == ["0", "201", ""]
        assert told.lists == 2
        assert server.watches[-1].version == "50"


async def test_watches_that_end_at_once_with_nothing_said_are_backed_off() -> None:
    server = Collection()
    server.end_at_once(FOR_EVER)
    async with watching(server):
        await pass_time(600)
    assert len(server.lists) == 1
    assert gaps(server)[1:8] == pytest.approx([0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0])


async def test_the_back_off_starts_over_after_two_quiet_minutes() -> None:
    server = Collection()
    server.end_at_once(4)
    async with watching(server):
        await pass_time(200)
        server.fail("watch", Unavailable())
        server.cut()
        await settle()
        before = len(server.asked)
        await pass_time(0.9)
        assert len(server.asked) == before + 1


async def test_a_watch_whose_version_has_expired_is_followed_by_a_list_with_that_version() -> None:
    server = Collection()
    async with watching(server) as told:
        server.put("a")
        await settle()
        server.cut(Expired("too old"))
        await settle()
        assert [(asked.version, asked.limit) for asked in server.lists] == [("0", 500), ("101", 0)]
        assert told.lists == 2


@pytest.mark.parametrize("error", [Unavailable("connection refused"), Throttled("slow down")])
async def test_a_watch_that_is_refused_is_asked_for_again_with_the_same_version_and_no_list(error: Exception) -> None:
    server = Collection()
    server.fail("watch", error, error)
    async with watching(server) as told:
        await pass_time(10)
        assert [asked.version for asked in server.watches] == ["100"] * 3
        assert told.lists == 1
        assert gaps(server)[1:] == pytest.approx([0.8, 1.6])


async def test_a_server_that_says_how_long_to_wait_is_obeyed() -> None:
    server = Collection()
    server.fail("watch", Throttled("slow down", retry_after=42.0))
    async with watching(server):
        await pass_time(60)
        assert gaps(server)[1:] == pytest.approx([42.0])


async def test_an_error_inside_the_stream_does_not_lose_what_came_before_it() -> None:
    server = Collection()
    async with watching(server) as told:
        server.put("a")
        server.cut(Unavailable("reset"))
        server.put("b")
        await pass_time(5)
        assert told.names == ["a", "b"]
        assert told.lists == 1


async def test_a_watch_that_goes_on_a_little_after_the_servers_deadline_is_given_up() -> None:
    server = Collection()
    async with watching(server):
        server.fall_silent()
        await pass_time(314)
        assert len(server.watches) == 1
        await pass_time(2)
        assert [asked.version for asked in server.watches] == ["100", "100"]
        assert server.watchers == 1


async def test_a_watch_that_the_server_never_ends_is_given_up_however_busy_it_is() -> None:
    class Endless(Collection):
        def _events(self, stream: Stream, timeout: float) -> AsyncIterator[Event[Thing]]:
            return super()._events(stream, FOR_EVER)

    server = Endless()
    async with watching(server) as told:
        for _ in range(32):
            await pass_time(10)
            server.put("a")
        await settle()
        assert len(server.watches) == 2
        assert len(told.names) == 32
        assert told.lists == 1


async def test_a_list_that_hangs_is_given_up() -> None:
    class Hanging(Collection):
        async def list(self, *, resource_version: str, limit: int, continue_token: str = "") -> Page[Thing]:
            await pass_time(FOR_EVER)
            raise AssertionError("nobody waits for so long")

    measured = Measured()
    async with watching(Hanging(), measured=measured):
        await pass_time(61)
        assert measured.counts["TimeoutError"] == 1


async def test_what_cannot_be_read_is_logged_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    server = Collection()
    async with watching(server) as told:
        server.tell(Unreadable("event type FROBNICATED", resource_version="150"))
        server.version = 150
        server.put("a")
        await settle()
        server.cut()
        await settle()
        assert told.names == ["a"]
        assert server.watches[-1].version == "151"
    assert [record.__dict__["detail"] for record in caplog.records] == ["event type FROBNICATED"]


async def test_even_a_source_with_a_bug_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    server = Collection()
    server.fail("watch", KeyError("oops"))
    async with watching(server) as told:
        await pass_time(5)
        server.put("a")
        await settle()
        assert told.names == ["a"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_being_cancelled_ends_it_and_closes_the_stream() -> None:
    server = Collection()
    async with watching(server):
        assert server.watchers == 1
    assert server.watchers == 0


async def test_a_long_list_comes_in_pages() -> None:
    server = Collection()
    for number in range(1201):
        server.put(f"{number:04}")
    async with watching(server) as told:
        assert [asked.limit for asked in server.lists] == [500, 500, 500]
        assert (told.lists, server.watches[0].version) == (1, str(server.version))


async def test_pages_that_expire_on_the_way_are_followed_by_a_list_without_pages() -> None:
    server = Collection()
    for number in range(600):
        server.put(f"{number:04}")

    class Forgetful:
        """Compacts between one page and the next."""

        def __getattr__(self, name: str) -> object:
            return getattr(server, name)

        async def list(self, *, resource_version: str, limit: int, continue_token: str = "") -> object:
            if continue_token:
                server.version += 1
                server.forget()
            return await server.list(resource_version=resource_version, limit=limit, continue_token=continue_token)

    async with watching(Forgetful()) as told:  # type: ignore[arg-type]
        assert [(asked.limit, bool(asked.token)) for asked in server.lists] == [(500, False), (500, True), (0, False)]
        assert told.lists == 1


async def test_a_server_that_streams_lists_is_asked_for_nothing_else() -> None:
    server = Collection()
    server.put("a")
    async with watching(server, streaming=True) as told:
        server.put("b")
        await settle()
        server.cut(Expired())
        await settle()
        assert [(asked.version, asked.initial_events) for asked in server.watches] == [("", True), ("102", True)]
        assert server.lists == []
        assert (told.lists, told.names) == (2, ["b"])


async def test_a_stream_becomes_the_watch_and_is_not_opened_twice() -> None:
    server = Collection()
    async with watching(server, streaming=True):
        await pass_time(299)
        assert len(server.asked) == 1


async def test_where_lists_cannot_be_streamed_it_falls_back_to_pages_at_once() -> None:
    server = Collection(streams_lists=False)
    server.put("a")
    async with watching(server, streaming=True) as told:
        assert [isinstance(asked, WatchAsked) for asked in server.asked] == [True, False, True]
        assert told.lists == 1


async def test_a_server_that_ignores_the_wish_for_a_stream_is_found_out_by_its_silence() -> None:
    server = OldServer()
    async with watching(server, streaming=True) as told:
        assert told.lists == 0
        await pass_time(11)
        assert told.lists == 1
        assert gaps(server) == pytest.approx([10.0, 0.0])


async def test_a_server_that_ignores_the_wish_for_a_stream_is_found_out_by_its_bookmark() -> None:
    server = OldServer()
    async with watching(server, streaming=True) as told:
        server.tell(Bookmark("100"))
        await settle()
        assert told.lists == 1
        assert isinstance(server.asked[-1], WatchAsked)


async def test_while_a_stream_makes_progress_it_is_waited_for() -> None:
    server = OldServer()
    async with watching(server, streaming=True) as told:
        for number in range(10):
            await pass_time(9)
            server.put(str(number))
        server.tell(Bookmark(str(server.version), initial_events_end=True))
        await settle()
        assert told.lists == 1
        assert server.lists == []


async def test_it_counts_what_it_hears() -> None:
    measured, server = Measured(), Collection()
    async with watching(server, measured=measured):
        server.put("a")
        server.put("a")
        server.delete("a")
        server.bookmark()
        server.cut(Expired())
        await settle()
    assert measured.counts == {"added": 1, "modified": 1, "deleted": 1, "bookmark": 1, "Expired": 1}


async def test_its_state_says_whether_it_is_watching() -> None:
    server = Collection()
    server.fail("list", Unavailable())
    watcher = Watcher(server, name="things", emit=lambda effect: None, streaming=False, chance=lambda: 0.0)
    async with running(watcher.run()):
        await settle()
        assert not isinstance(watcher.state, Watching)
        await pass_time(1)
        assert isinstance(watcher.state, Watching)
