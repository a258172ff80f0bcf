from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from dynvol.api.core import Node, Pod
from dynvol.api.resources import NODES, PODS
from dynvol.kube import source as kube_source
from dynvol.kube.client import KubeClient
from dynvol.kube.connection import Answer
from dynvol.kube.source import list_query, watch_query
from dynvol.runtime import errors as runtime
from dynvol.runtime.source import Added, Bookmark, Deleted, Event, Modified, Source, Unreadable

from .server import Script, breaks_off, line, pod, refuses, says, streams


@pytest.fixture
async def pods(client: KubeClient) -> AsyncIterator[Source[Pod]]:
    yield client.source(PODS, field_selector="spec.nodeName=n1")


async def watched(
    source: Source[Pod], *, resource_version: str = "1", timeout: float = 300, initial_events: bool = False
) -> list[Event[Pod]]:
    async with source.watch(resource_version=resource_version, timeout=timeout, initial_events=initial_events) as events:
        return [event async for event in events]


def test_a_first_list_asks_for_whatever_is_at_hand() -> None:
    query = list_query(resource_version="0", limit=500, continue_token="")
    assert query == {"limit": "500", "resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"}


def test_a_list_of_the_most_recent_state_names_no_version() -> None:
    assert list_query(resource_version="", limit=0, continue_token="") == {}


def test_a_next_page_carries_its_token_and_no_version() -> None:
    assert list_query(resource_version="7", limit=500, continue_token="next") == {"limit": "500", "continue": "next"}


def test_a_watch_asks_for_bookmarks_and_an_end() -> None:
    query = watch_query(resource_version="7", timeout=412.6, initial_events=False)
    assert query == {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "413", "resourceVersion": "7"}


def test_a_streaming_list_says_how_old_it_may_be() -> None:
    query = watch_query(resource_version="", timeout=300, initial_events=True)
    assert query["sendInitialEvents"] == "true"
    assert query["resourceVersionMatch"] == "NotOlderThan"
    assert "resourceVersion" not in query


async def test_a_list_is_a_page(pods: Source[Pod], script: Script) -> None:
    script.then(says({"metadata": {"resourceVersion": "7", "continue": "next"}, "items": [pod()]}))
    page = await pods.list(resource_version="0", limit=500)
    assert [p.metadata.name for p in page.items] == ["web"]
    assert (page.resource_version, page.continue_token) == ("7", "next")
    assert script.seen[0].query["fieldSelector"] == "spec.nodeName=n1"


async def test_a_list_that_is_no_list_is_unavailable(pods: Source[Pod], script: Script) -> None:
    script.then(says(b"<html>"))
    with pytest.raises(runtime.Unavailable, match="no list"):
        await pods.list(resource_version="0", limit=500)


async def test_an_expired_list_is_expired(pods: Source[Pod], script: Script) -> None:
    script.then(refuses(410, "Expired", "The provided continue parameter is too old"))
    with pytest.raises(runtime.Expired, match="too old"):
        await pods.list(resource_version="", limit=500, continue_token="old")


async def test_a_watch_yields_its_events_in_order(pods: Source[Pod], script: Script) -> None:
    script.then(
        streams(
            line("ADDED", pod(version="2")) + line("MODIFIED", pod(version="3")),
            line("DELETED", pod(version="4")),
            line("BOOKMARK", {"metadata": {"resourceVersion": "5"}}),
        )
    )
    added, modified, deleted, bookmark = await watched(pods)
    assert isinstance(added, Added)
    assert isinstance(modified, Modified)
    assert isinstance(deleted, Deleted)
    assert bookmark == Bookmark("5")


async def test_an_object_of_megabytes_arrives(pods: Source[Pod], script: Script) -> None:
    large = pod(version="2")
    large["metadata"]["annotations"] = {"large": "x" * 6_000_000}
    text = line("ADDED", large)
    script.then(streams(*[text[i : i + 100_000] for i in range(0, len(text), 100_000)]))
    [event] = await watched(pods)
    assert isinstance(event, Added)
    assert len(event.object.metadata.annotations["large"]) == 6_000_000


async def test_half_an_object_is_never_yielded(pods: Source[Pod], script: Script) -> None:
    script.then(streams(line("ADDED", pod(version="2")), line("ADDED", pod("b", version="3"))[:-30]))
    events = await watched(pods)
    assert [type(e) for e in events] == [Added]


async def test_a_connection_that_breaks_is_unavailable(pods: Source[Pod], script: Script) -> None:
    script.then(streams(line("ADDED", pod(version="2")), then=breaks_off))
    seen = []
    with pytest.raises(runtime.Unavailable):
        async with pods.watch(resource_version="1", timeout=300) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401  # what came before the break counts
    assert len(seen) == 1


async def test_a_malformed_object_does_not_end_the_watch(pods: Source[Pod], script: Script) -> None:
    script.then(
        streams(line("ADDED", {"metadata": {"resourceVersion": "2"}, "spec": "no"}), b"garbage\n", line("ADDED", pod(version="3")))
    )
    assert [type(e) for e in await watched(pods)] == [Unreadable, Unreadable, Added]


async def test_410_is_expired_as_a_status_and_as_an_event(pods: Source[Pod], script: Script) -> None:
    script.then(refuses(410, "Expired"))
    script.then(streams(line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})))
    for _ in range(2):
        with pytest.raises(runtime.Expired):
            await watched(pods)


async def test_429_says_how_long_to_wait(pods: Source[Pod], script: Script) -> None:
    script.then(refuses(429, "TooManyRequests", headers={"Retry-After": "3"}))
    with pytest.raises(runtime.Throttled) as caught:
        await watched(pods)
    assert caught.value.retry_after == 3


async def test_a_server_without_streaming_lists_is_recognised(pods: Source[Pod], script: Script) -> None:
    script.then(refuses(422, "Invalid", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"))
    with pytest.raises(runtime.StreamingListUnsupported):
        await watched(pods, resource_version="", initial_events=True)


async def test_what_the_user_of_a_watch_raises_is_left_alone(pods: Source[Pod], script: Script) -> None:
    script.then(streams(line("ADDED", pod(version="2"))))
    with pytest.raises(TimeoutError, match="mine"):
        async with pods.watch(resource_version="1", timeout=300):
            raise TimeoutError("mine")


async def test_a_watch_left_early_ends_the_request(pods: Source[Pod], script: Script) -> None:
    gone = asyncio.Event()

    async def hangs(request: web.BaseRequest) -> web.StreamResponse:
        answer = await streams(line("ADDED", pod(version="2")))(request)
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  # no event for this
            await asyncio.sleep(0.01)
        gone.set()
        return answer

    script.then(hangs)
    async with pods.watch(resource_version="1", timeout=300) as events:
        await anext(events)
    async with asyncio.timeout(10):
        await gone.wait()


async def test_a_watch_that_outlasts_what_was_asked_for_is_given_up(
    pods: Source[Pod], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(_: web.BaseRequest) -> None:
        await script.closing.wait()

    monkeypatch.setattr(kube_source, "WATCH_GRACE", 0.2)
    script.then(streams(line("ADDED", pod(version="2")), then=silence))
    with pytest.raises(runtime.Unavailable, match="in time"):
        await watched(pods, timeout=0.1)


async def test_a_watch_notices_a_peer_that_vanished(pods: Source[Pod], script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets: list[socket.socket] = []
    original = Answer.detect_dead_peer

    def spy(self: Answer) -> None:
        original(self)
        connection = self._response.connection
        assert connection is not None
        assert connection.transport is not None
        sockets.append(connection.transport.get_extra_info("socket"))

    async def silence(_: web.BaseRequest) -> None:
        await script.closing.wait()

    monkeypatch.setattr(Answer, "detect_dead_peer", spy)
    script.then(streams(line("ADDED", pod(version="2")), then=silence))
    async with pods.watch(resource_version="1", timeout=300) as events:
        await anext(events)
        [peer] = sockets
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_metadata_alone_is_asked_for_in_lists_and_watches(client: KubeClient, script: Script) -> None:
    source: Source[Node] = client.source(NODES, metadata_only=True)
    node = {"kind": "PartialObjectMetadata", "metadata": {"name": "n1", "resourceVersion": "2"}}
    script.then(says({"metadata": {"resourceVersion": "1"}, "items": [node]})).then(streams(line("ADDED", node)))
    page = await source.list(resource_version="0", limit=500)
    async with source.watch(resource_version="1", timeout=300) as events:
        event = await anext(events)
    assert page.items[0].metadata.name == "n1"
    assert isinstance(event, Added)
    assert "as=PartialObjectMetadataList" in script.seen[0].headers["Accept"]
    assert "as=PartialObjectMetadata;" in script.seen[1].headers["Accept"]
