from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from dynvol.api.meta import ObjectMeta
from dynvol.api.resources import CLASSES, PODS
from dynvol.kube import events
from dynvol.kube.client import KubeClient
from dynvol.kube.events import EventRecorder, ObjectReference

from .server import Answer, Script, refuses, says

POD = ObjectReference.of(PODS, ObjectMeta(name="web", namespace="ns", uid="u1", resource_version="7"))


class Ledger:
    """The events that an API server would hold; refuses first what it is told to refuse."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.refusals: list[Answer] = []
        self.requests = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        if self.refusals:
            return await self.refusals.pop(0)(request)
        body = json.loads(await request.read())
        if request.method == "POST":
            self.events[body["metadata"]["name"]] = body
        elif (name := request.path.rsplit("/", 1)[1]) in self.events:
            self.events[name] |= body
        else:
            return await refuses(404, "NotFound")(request)
        return await says({"metadata": {"name": "e"}})(request)

    @property
    def told(self) -> list[tuple[str, str, int]]:
        return [(e["reason"], e["message"], e["count"]) for e in self.events.values()]


@pytest.fixture
def ledger(script: Script) -> Ledger:
    ledger = Ledger()
    script.then(ledger)
    return ledger


@pytest.fixture
async def recorder(client: KubeClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventRecorder]:
    monkeypatch.setattr(events, "FIRST_DELAY", 0.01)
    async with EventRecorder(client, component="dynvol", instance="n1") as recorder:
        yield recorder


async def settled(recorder: EventRecorder) -> None:
    async with asyncio.timeout(5):
        await recorder._idle.wait()


async def test_an_event_is_what_kubectl_describe_shows(recorder: EventRecorder, ledger: Ledger, script: Script) -> None:
    recorder.warning(POD, "MountFailed", "the bucket does not exist")
    await settled(recorder)
    [event] = ledger.events.values()
    assert event["metadata"]["name"].startswith("web.")
    assert script.seen[0].path == "/api/v1/namespaces/ns/events"
    assert event["involvedObject"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web",
        "namespace": "ns",
        "uid": "u1",
        "resourceVersion": "7",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "MountFailed", "the bucket does not exist")
    assert (event["count"], event["source"]) == (1, {"component": "dynvol", "host": "n1"})
    assert event["firstTimestamp"] == event["lastTimestamp"]


async def test_the_same_thing_said_again_is_counted(recorder: EventRecorder, ledger: Ledger) -> None:
    recorder.normal(POD, "Mounted", "at /data")
    await settled(recorder)
    recorder.normal(POD, "Mounted", "at /data")
    await settled(recorder)
    recorder.normal(POD, "Mounted", "at /models")
    await settled(recorder)
    assert ledger.told == [("Mounted", "at /data", 2), ("Mounted", "at /models", 1)]


async def test_what_is_said_often_at_once_is_written_once(recorder: EventRecorder, ledger: Ledger) -> None:
    for _ in range(5):
        recorder.normal(POD, "Mounted", "at /data")
    await settled(recorder)
    assert ledger.told == [("Mounted", "at /data", 5)]
    assert ledger.requests == 1


async def test_an_event_that_the_server_has_forgotten_is_made_anew(recorder: EventRecorder, ledger: Ledger) -> None:
    recorder.normal(POD, "Mounted", "at /data")
    await settled(recorder)
    ledger.events.clear()
    recorder.normal(POD, "Mounted", "at /data")
    await settled(recorder)
    assert ledger.told == [("Mounted", "at /data", 1)]


async def test_a_server_in_trouble_is_asked_again(recorder: EventRecorder, ledger: Ledger) -> None:
    ledger.refusals = [refuses(500), refuses(429), refuses(503)]
    recorder.normal(POD, "Mounted", "at /data")
    await settled(recorder)
    assert ledger.told == [("Mounted", "at /data", 1)]


@pytest.mark.parametrize("code", [400, 403, 404, 422])
async def test_an_event_that_nobody_wants_is_given_up_and_the_next_one_is_told(
    code: int, recorder: EventRecorder, ledger: Ledger
) -> None:
    ledger.refusals = [refuses(code)]
    recorder.normal(POD, "Mounted", "at /data")
    recorder.normal(POD, "Unmounted", "from /data")
    await settled(recorder)
    assert ledger.told == [("Unmounted", "from /data", 1)]


async def test_what_has_no_namespace_is_told_of_in_default(recorder: EventRecorder, ledger: Ledger, script: Script) -> None:
    recorder.warning(ObjectReference.of(CLASSES, ObjectMeta(name="s3")), "SecretMissing", "there is no Secret a/b")
    await settled(recorder)
    assert script.seen[0].path == "/api/v1/namespaces/default/events"


async def test_long_names_and_messages_fit_what_the_server_takes(recorder: EventRecorder, ledger: Ledger) -> None:
    long = ObjectReference.of(PODS, ObjectMeta(name="a" * 229 + "." + "b" * 23, namespace="ns"))
    recorder.normal(long, "Mounted", "ü" * 1000)
    await settled(recorder)
    [event] = ledger.events.values()
    assert len(event["metadata"]["name"]) <= 253
    assert ".." not in event["metadata"]["name"]
    assert event["message"] == "ü" * 512


async def test_what_is_recorded_last_is_still_written(client: KubeClient, ledger: Ledger) -> None:
    async with EventRecorder(client) as recorder:
        recorder.normal(POD, "Stopping", "the node process ends")
    assert ledger.told == [("Stopping", "the node process ends", 1)]


async def test_a_server_that_is_silent_does_not_hold_up_the_end(
    client: KubeClient, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: Any) -> Any:
        await script.closing.wait()

    monkeypatch.setattr(events, "FLUSH", 0.1)
    script.then(never)
    async with asyncio.timeout(2), EventRecorder(client) as recorder:
        recorder.normal(POD, "Stopping", "the node process ends")


async def test_an_error_of_the_block_passes_as_it_is(client: KubeClient, ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with EventRecorder(client):
            raise ValueError("mine")


def note(message: str = "m", *, name: str = "web") -> events._Note:
    reference = ObjectReference.of(PODS, ObjectMeta(name=name, namespace="ns"))
    return events._Note(reference, "Normal", "Reason", message, first="t", last="t")


def test_an_object_with_too_much_to_say_is_cut_short_and_heard_again_later() -> None:
    at = 0.0
    notes = events.Notes(clock=lambda: at)
    assert [notes.add(note(str(i))) for i in range(30)] == [True] * 25 + [False] * 5
    assert notes.add(note(name="another"))
    at = events.REFILL
    assert [notes.add(note(str(i))) for i in range(100, 102)] == [True, False]


def test_the_box_is_bounded_while_the_server_is_away() -> None:
    notes = events.Notes(clock=lambda: 0.0)
    taken = [notes.add(note(name=f"pod-{i}")) for i in range(events.CAPACITY + 10)]
    assert taken.count(True) == events.CAPACITY
    assert notes.dropped == 10
    assert len(notes.allowances) == events.CAPACITY
