"""The watcher's rules: what follows from what, with nobody there to do it."""

from __future__ import annotations

import pytest

from dynvol.runtime.errors import Expired, SourceError, StreamingListUnsupported, Throttled, TooLargeVersion, Unavailable
from dynvol.runtime.source import Added, Bookmark, Deleted, Event, Modified, Page, Unreadable
from dynvol.runtime.watcher import (
    Applied,
    Arrived,
    Begun,
    Completed,
    Effect,
    Ended,
    Failed,
    Listed,
    Listing,
    Paused,
    Received,
    Removed,
    State,
    Streaming,
    Unread,
    Watching,
    Withdrawn,
    begin,
    step,
)

from .collection import Thing, thing

A, B = thing("a", version="11"), thing("b", version="12")

ALL_STATES: list[State] = [
    Listing("0"),
    Listing("7", token="t"),
    Streaming(""),
    Streaming("7"),
    Watching("7"),
    Watching("7", streams=True),
]


def after_page(state: State, page: Page[Thing]) -> tuple[State, tuple[Effect[Thing], ...]]:
    return step(state, Listed(page))


def after_event(state: State, event: Event[Thing]) -> tuple[State, tuple[Effect[Thing], ...]]:
    return step(state, Received(event))


def after_failure(state: State, error: Exception) -> tuple[State, tuple[Effect[Thing], ...]]:
    return step(state, Failed(error))


# Lists


def test_the_first_list_takes_whatever_version_the_server_has() -> None:
    assert begin(streaming=False) == Listing("0", limit=500)


def test_a_list_comes_in_pages_of_five_hundred_and_counts_when_it_is_whole() -> None:
    state, effects = after_page(Listing("0"), Page(items=(A,), resource_version="40", continue_token="next"))
    assert (state, effects) == (Listing("0", token="next", limit=500), (Begun(), Arrived((A,))))
    state, effects = after_page(state, Page(items=(B,), resource_version="40"))
    assert (state, effects) == (Watching("40"), (Arrived((B,)), Completed()))


def test_what_is_in_a_page_and_cannot_be_read_is_said_to_be_there() -> None:
    _, effects = after_page(Listing("0"), Page(items=(A,), resource_version="40", unreadable=("b",)))
    assert effects == (Begun(), Arrived((A,)), Unread(("b",)), Completed())


def test_an_expired_continue_token_means_a_full_list_at_once() -> None:
    assert after_failure(Listing("0", token="old"), Expired()) == (Listing("0", limit=0), ())


@pytest.mark.parametrize("error", [Expired(), TooLargeVersion()])
@pytest.mark.parametrize("state", [Listing("0"), Listing("7", limit=0)])
def test_a_version_that_cannot_be_listed_means_the_most_recent_at_once(state: State, error: Exception) -> None:
    assert after_failure(state, error) == (Listing("", limit=500), ())


@pytest.mark.parametrize("error", [Expired(), TooLargeVersion()])
def test_a_server_that_cannot_list_even_the_most_recent_is_given_time(error: Exception) -> None:
    assert after_failure(Listing(""), error) == (Listing(""), (Paused(),))


def test_a_page_that_could_not_be_had_is_asked_for_again() -> None:
    page_two = Listing("0", token="next")
    assert after_failure(page_two, Unavailable()) == (page_two, (Paused(),))


def test_a_list_that_fails_oddly_starts_over() -> None:
    assert after_failure(Listing("0", token="next"), SourceError("bad token")) == (Listing("0"), (Paused(),))


# Watches


@pytest.mark.parametrize(
    ("event", "version"),
    [
        (Added(A), "11"),
        (Modified(B), "12"),
        (Deleted(B), "12"),
        (Bookmark("13"), "13"),
        (Unreadable("?", resource_version="14"), "14"),
    ],
)
def test_the_version_advances_on_every_event(event: Event[Thing], version: str) -> None:
    state, _ = after_event(Watching("7"), event)
    assert state == Watching(version, fresh=False)


def test_an_event_without_a_version_leaves_the_version_alone() -> None:
    state, effects = after_event(Watching("7"), Unreadable("no metadata"))
    assert (state, effects) == (Watching("7", fresh=False), ())


def test_events_become_effects() -> None:
    assert after_event(Watching("7"), Added(A))[1] == (Applied(A),)
    assert after_event(Watching("7"), Modified(A))[1] == (Applied(A),)
    assert after_event(Watching("7"), Deleted(A))[1] == (Removed(A),)
    assert after_event(Watching("7"), Bookmark("9"))[1] == ()


@pytest.mark.parametrize(("after", "heard"), [(400.0, True), (299.0, False), (1.0, False), (0.5, True)])
def test_after_a_clean_end_it_watches_again_without_a_list(after: float, heard: bool) -> None:
    assert step(Watching("7"), Ended(after, heard)) == (Watching("7"), ())


def test_a_watch_that_ends_within_a_second_with_nothing_said_is_backed_off() -> None:
    assert step(Watching("7"), Ended(0.9, heard=False)) == (Watching("7"), (Paused(),))


def test_a_watch_that_said_nothing_to_its_end_is_followed_by_a_list_with_its_version() -> None:
    assert step(Watching("7"), Ended(300.0, heard=False)) == (Listing("7", limit=0), ())
    assert step(Watching("7", streams=True), Ended(300.0, heard=False)) == (Streaming("7"), ())


def test_a_version_that_is_gone_means_a_list_with_the_last_version() -> None:
    # Without a limit: with one, the server would answer from its data store, and for exactly this version.
    assert after_failure(Watching("7", fresh=False), Expired()) == (Listing("7", limit=0), ())
    assert after_failure(Watching("7", fresh=False, streams=True), Expired()) == (Streaming("7"), ())


def test_a_version_that_is_gone_before_it_was_of_use_is_backed_off() -> None:
    assert after_failure(Watching("7"), Expired()) == (Listing("7", limit=0), (Paused(),))


def test_a_version_that_the_server_has_not_reached_means_a_list_of_the_most_recent() -> None:
    assert after_failure(Watching("7", fresh=False), TooLargeVersion()) == (Listing(""), ())


@pytest.mark.parametrize("state", ALL_STATES)
def test_a_server_that_asks_for_patience_is_asked_the_same_again_later(state: State) -> None:
    assert after_failure(state, Throttled("slow down", retry_after=17.0)) == (state, (Paused(at_least=17.0),))


@pytest.mark.parametrize("state", ALL_STATES)
def test_a_server_that_refuses_is_asked_the_same_again_later(state: State) -> None:
    assert after_failure(state, Unavailable("connection refused")) == (state, (Paused(),))


@pytest.mark.parametrize("state", ALL_STATES)
@pytest.mark.parametrize(
    "error",
    [Expired(), TooLargeVersion(), SourceError("forbidden"), StreamingListUnsupported(), ValueError("a bug"), TimeoutError()],
)
def test_no_error_is_fatal(state: State, error: Exception) -> None:
    following, effects = after_failure(state, error)
    assert isinstance(following, Listing | Streaming | Watching)
    assert effects in ((), (Paused(),))


def test_an_error_that_fits_nowhere_makes_it_list_again() -> None:
    assert after_failure(Watching("7"), SourceError("forbidden")) == (Listing("7", limit=0), (Paused(),))


# Streaming lists


def test_a_streaming_list_begins_with_the_most_recent() -> None:
    assert begin(streaming=True) == Streaming("")


def test_a_streaming_list_counts_when_the_server_says_that_this_was_all() -> None:
    state: State = Streaming("")
    effects: list[Effect[Thing]] = []
    for event in (Added(B), Added(A), Modified(A), Deleted(B), Bookmark("30", initial_events_end=True)):
        state, new = after_event(state, event)
        effects += new
    assert state == Watching("30", streams=True)
    assert effects == [Arrived((B,)), Arrived((A,)), Arrived((A,)), Withdrawn(B), Completed()]


def test_the_version_does_not_follow_initial_events_which_come_in_no_order() -> None:
    assert after_event(Streaming("5"), Added(B))[0] == Streaming("5")


def test_what_is_streamed_and_cannot_be_read_is_said_to_be_there() -> None:
    assert after_event(Streaming(""), Unreadable("?", key="a")) == (Streaming(""), (Unread(("a",)),))
    assert after_event(Streaming(""), Unreadable("?")) == (Streaming(""), ())


def test_a_server_that_cannot_stream_a_list_is_asked_for_pages_at_once() -> None:
    assert after_failure(Streaming(""), StreamingListUnsupported()) == (Listing("0"), ())


def test_a_list_in_place_of_a_stream_does_not_go_back_in_time() -> None:
    assert after_failure(Streaming("7"), StreamingListUnsupported()) == (Listing("7", limit=0), ())


def test_a_bookmark_without_the_mark_shows_a_server_that_knows_no_streaming_lists() -> None:
    assert after_event(Streaming(""), Bookmark("30")) == (Listing("0"), ())


def test_the_rest_of_a_stream_that_was_given_up_changes_nothing() -> None:
    assert step(Listing("0"), Ended(0.1, heard=True)) == (Listing("0"), ())


def test_a_server_that_cannot_stream_is_not_asked_to_again() -> None:
    state, _ = after_page(Listing("0"), Page(items=(), resource_version="9"))
    assert after_failure(state, Expired())[0] == Listing("9", limit=0)


@pytest.mark.parametrize("error", [Expired(), TooLargeVersion()])
def test_a_version_that_cannot_be_streamed_means_the_most_recent_at_once(error: Exception) -> None:
    assert after_failure(Streaming("7"), error) == (Streaming(""), ())


def test_a_stream_that_ends_before_it_was_whole_is_begun_again_later() -> None:
    assert step(Streaming(""), Ended(100.0, heard=True)) == (Streaming(""), (Paused(),))
