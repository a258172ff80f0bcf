"""Annotations in, reports out, against an API server that has its moods.

The mounts that are wanted here cannot be tried (no bucket is named), so the engine's report says Failed and nothing is mounted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynvol.api import names
from dynvol.api.mounts import WantedMount
from dynvol.mount.executor import MountExecutor
from dynvol.mount.watch import MountWatcher
from dynvol.mounter.ask import ask
from dynvol.mounter.engine import Engine
from dynvol.mounter.feed import Feed
from dynvol.mounter.limits import Memory
from dynvol.mounter.podapi import PodApi, PodGone, Server
from dynvol.mounter.process import Children
from dynvol.mounter.stage import Stage
from dynvol.mounter.tools import Tools

from .fake_api import NAME, NAMESPACE, FakeApi


def impossible(claim: str) -> WantedMount:
    return WantedMount(claim=f"ns/{claim}", claim_uid=claim, pod_uid="pod", path=f"pod/{claim}", provider="s3", spec_hash="1")


class Scene:
    def __init__(self, api: FakeApi, feed: Feed, engine: Engine, token: Path) -> None:
        self.api = api
        self.feed = feed
        self.engine = engine
        self.token = token


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    place = Stage(str(tmp_path / "root"), str(tmp_path / "run"), str(tmp_path / "cache"), str(tmp_path / "secret"))
    token = tmp_path / "token"
    token.write_text("first\n")
    async with FakeApi() as api, Children() as children, MountWatcher() as watcher, MountExecutor() as executor:
        engine = Engine(Tools(place, children, watcher, executor, ask, Memory()))
        server = Server.of(api.url, ca_file="", token_file=str(token))
        feed = Feed(PodApi(server, namespace=NAMESPACE, name=NAME), engine)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work, name="part of the mounter") for work in (engine.run(), feed.follow(), feed.report())]
            yield Scene(api, feed, engine, token)
            for task in running:
                task.cancel()


async def test_what_is_wanted_is_taken_up_and_reported_on(scene: Scene) -> None:
    await scene.api.want(impossible("a"), impossible("b"))
    found = await scene.api.until_reported("Failed", "Failed")
    assert [r.reason for r in found] == ["InvalidParameters"] * 2
    await scene.api.want(impossible("b"))
    (left,) = await scene.api.until_reported("Failed")
    assert left.claim_uid == "b"
    await scene.api.want()
    await scene.api.until_reported()


async def test_a_report_of_an_earlier_life_is_replaced(scene: Scene) -> None:
    await scene.api.annotate(names.REPORT_ANNOTATION, "[]")
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")


async def test_a_watch_that_ends_is_taken_up_again(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    scene.api.end_watches()
    await scene.api.want()
    await scene.api.until_reported()


async def test_what_is_known_of_the_pod_is_not_asked_for_again(scene: Scene) -> None:
    """A connection more is some milliseconds more until the first mount, of a processor of which the class may grant little."""
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    before = scene.api.lists
    api = PodApi(Server.of(scene.api.url, ca_file="", token_file=str(scene.token)), namespace=NAMESPACE, name=NAME)
    feed = Feed(api, scene.engine, known=await api.read())
    following = asyncio.create_task(feed.follow(), name="follow")
    await scene.api.want()
    await scene.api.until_reported()
    async with asyncio.timeout(20):
        await feed.told.wait()
    following.cancel()
    assert scene.api.lists == before + 1


async def test_a_version_that_expired_is_read_anew(scene: Scene) -> None:
    scene.api.expire_watches = 1
    scene.api.end_watches()
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    await scene.api.want()
    await scene.api.until_reported()
    assert scene.api.lists >= 2


async def test_while_the_api_is_away_what_was_wanted_last_stays(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    await scene.api.go_away()
    assert [r.claim_uid for r in scene.engine.reports()] == ["a"]
    await scene.api.want(impossible("b"))
    await scene.api.come_back()
    await scene.api.until(lambda found: [r.claim_uid for r in found] == ["b"])


async def test_a_report_that_is_refused_is_written_again(scene: Scene) -> None:
    scene.api.refuse_patches = 1
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    assert len(scene.api.patches) >= 2


async def test_wanted_mounts_that_cannot_be_read_change_nothing(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    await scene.api.annotate(names.WANTED_ANNOTATION, "[{")
    await scene.api.annotate(names.WANTED_ANNOTATION, "[{}]")
    await scene.api.want(impossible("a"), impossible("b"))
    await scene.api.until_reported("Failed", "Failed")


async def test_the_token_is_read_for_each_request(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    scene.token.write_text("second")
    await scene.api.want()
    await scene.api.until_reported()
    assert scene.api.tokens[0] == "Bearer first"
    assert scene.api.tokens[-1] == "Bearer second"


async def test_a_successor_of_the_same_name_is_not_written_to(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    patches = len(scene.api.patches)
    scene.api.uid = "another"
    await scene.api.want()
    scene.api.end_watches()
    await scene.api.annotate("any", "change")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.7):
            await scene.api.until_reported()
    assert len(scene.api.patches) == patches
    assert [r.claim_uid for r in scene.engine.reports()] == ["a"]


async def test_a_report_that_would_be_a_successors_has_no_pod_to_go_to() -> None:
    async with FakeApi() as api:
        own = PodApi(Server.of(api.url, ca_file="", token_file=""), namespace=NAMESPACE, name=NAME)
        await own.annotate({"any": "report"}, uid=api.uid)
        with pytest.raises(PodGone):
            await own.annotate({"any": "other"}, uid="another")
    assert api.annotations["any"] == "report"


async def test_a_successor_of_the_same_name_supersedes(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    assert not scene.feed.superseded.is_set()
    scene.api.uid = "another"
    await scene.api.annotate("any", "change")
    async with asyncio.timeout(10):
        await scene.feed.superseded.wait()


async def test_an_api_that_is_away_supersedes_no_one(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    await scene.api.go_away()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            await scene.feed.superseded.wait()
    assert not scene.feed.superseded.is_set()
    await scene.api.come_back()


async def test_a_pod_that_was_seen_to_go_and_whose_token_is_refused_is_superseded(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    scene.api.knows_us = False
    await scene.api.delete()
    async with asyncio.timeout(10):
        await scene.feed.superseded.wait()


async def test_an_account_that_is_refused_supersedes_no_one(scene: Scene) -> None:
    await scene.api.want(impossible("a"))
    await scene.api.until_reported("Failed")
    scene.api.knows_us = False
    scene.api.end_watches()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2.5):
            await scene.feed.superseded.wait()
    assert not scene.feed.superseded.is_set()


async def test_being_released_is_noticed(scene: Scene) -> None:
    await scene.api.annotate(names.RELEASE_ANNOTATION, "successor follows")
    async with asyncio.timeout(10):
        await scene.feed.released.wait()


async def test_pods_that_do_not_end_are_told_to_the_engine(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[set[str]] = []
    monkeypatch.setattr(scene.engine, "set_overdue", lambda pods: told.append(set(pods)))
    for text, pods in (("one,two", {"one", "two"}), ("two", {"two"}), ("", set())):
        await scene.api.annotate(names.OVERDUE_ANNOTATION, text)
        async with asyncio.timeout(10):
            while not told or told[-1] != pods:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_reports_are_few_however_much_changes(scene: Scene) -> None:
    for number in range(40):
        await scene.api.want(impossible(f"c{number}"))
        await asyncio.sleep(0.005)
    await scene.api.until(lambda found: [r.claim_uid for r in found] == ["c39"])
    assert len(scene.api.patches) <= 10
