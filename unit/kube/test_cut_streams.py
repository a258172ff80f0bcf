"""Streams that end in the middle of anything: nothing is lost, and nothing comes twice.

A server that keeps a history as etcd does, and hands out lists and watches of it as bytes; the way to it loses every connection
after some bytes, in the middle of a line, of a character, of a number. At the other end is an informer. Time is virtual.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import looptime
from hypothesis import given
from hypothesis import strategies as st

from dynvol.api.core import Pod
from dynvol.api.resources import PODS
from dynvol.kube import errors
from dynvol.kube.connection import Answer, Connection
from dynvol.kube.source import ApiSource
from dynvol.runtime.informer import Informer
from dynvol.runtime.store import Change
from unit.examples import examples

from .server import line, pod

NAMES = ("a", "b", "c")
DEADLINE = 3600.0
"""Virtual seconds."""


class History:
    """Every change there ever was. Versions begin at 100."""

    def __init__(self, steps: Sequence[tuple[str, bool]]) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._steps = iter(steps)
        self.present: dict[str, dict[str, Any]] = {}
        self._made = 0

    @property
    def versions(self) -> dict[str, str]:
        return {name: version(made) for name, made in self.present.items()}

    @property
    def version(self) -> int:
        return 100 + len(self.events)

    def go_on(self) -> bool:
        """One step: an object is made or changed, or goes. Says whether there was one."""
        for name, goes in self._steps:
            if goes and name not in self.present:
                continue
            known = name in self.present
            self._made += not known
            made = pod(name, version=str(self.version + 1), nodeName="ü" * (self.version % 7))
            made["metadata"]["uid"] = self.present[name]["metadata"]["uid"] if known else f"uid-{self._made}"
            kind = "DELETED" if goes else "MODIFIED" if known else "ADDED"
            self.events.append((kind, made))
            self.present = {k: v for k, v in self.present.items() if k != name} | ({} if goes else {name: made})
            return True
        return False

    def listed(self) -> bytes:
        items = list(self.present.values())
        return json.dumps({"metadata": {"resourceVersion": str(self.version)}, "items": items}, ensure_ascii=False).encode()

    def after(self, version: int) -> Iterator[bytes]:
        """The lines of a watch: what was, then what comes, a bookmark now and then."""
        position = version - 100
        while position < len(self.events) or self.go_on():
            kind, made = self.events[position]
            position += 1
            yield line(kind, made)
            if position % 3 == 0:
                yield line("BOOKMARK", {"metadata": {"resourceVersion": str(100 + position)}})


class Wire:
    """A `Connection` whose answers end where `cuts` say: after so many bytes, politely or not."""

    def __init__(self, history: History, cuts: Sequence[tuple[int, bool]]) -> None:
        self.history = history
        self.cuts = iter(cuts)
        self.lists = 0

    async def call(self, method: str, path: str, **options: Any) -> bytes:
        self.lists += 1
        return self.history.listed()

    @asynccontextmanager
    async def exchange(self, method: str, path: str, *, query: dict[str, str], **options: Any) -> AsyncIterator[Answer]:
        if "sendInitialEvents" in query:
            raise errors.Invalid(errors.Status(code=422, reason="Invalid", message="unknown"), request=path)
        yield cast(Answer, Stream(self, int(query["resourceVersion"])))


class Stream:
    def __init__(self, wire: Wire, version: int) -> None:
        self._wire = wire
        self._version = version

    def detect_dead_peer(self) -> None:
        pass

    async def chunks(self) -> AsyncIterator[bytes]:
        left, politely = next(self._wire.cuts, (None, True))
        for data in self._wire.history.after(self._version):
            # In two pieces, cut where no one would cut by intent.
            for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
                sent = piece if left is None else piece[:left]
                await asyncio.sleep(0)
                yield sent
                left = None if left is None else left - len(sent)
                if left == 0:
                    if politely:
                        return
                    raise errors.Unreachable("the connection broke")
        if left is not None:
            return
        await asyncio.sleep(DEADLINE)


async def followed(history: History, wire: Wire) -> tuple[dict[str, str], list[Change[Pod]]]:
    """What an informer knows in the end, and what it told."""
    informer = Informer(ApiSource(cast(Connection, wire), PODS, "/api/v1/pods"), name="pods")
    told: list[Change[Pod]] = []
    informer.add_handler(told.append)
    running = asyncio.create_task(informer.run(), name="informer")
    try:
        async with asyncio.timeout(DEADLINE / 2):
            # Virtual seconds: looked at again and again at no cost.
            while not (informer.has_synced and not history.go_on() and known(informer) == history.versions):  # noqa: ASYNC110
                await asyncio.sleep(20)
    finally:
        running.cancel()
        await asyncio.wait([running])
    return known(informer), told


def known(informer: Informer[Pod]) -> dict[str, str]:
    return {pod.metadata.name: pod.metadata.resource_version for pod in informer.store.values()}


def version(made: dict[str, Any]) -> str:
    return str(made["metadata"]["resourceVersion"])


steps = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([False, False, True])), min_size=5, max_size=25)
cuts = st.lists(st.tuples(st.integers(1, 700), st.booleans()), min_size=3, max_size=20)


@examples(60)
@given(steps, cuts)
def test_a_stream_that_is_cut_anywhere_goes_on_with_nothing_lost_or_doubled(
    steps: list[tuple[str, bool]], cuts: list[tuple[int, bool]]
) -> None:
    history = History(steps)
    wire = Wire(history, cuts)
    loop = looptime.new_event_loop(start=0)
    try:
        found, told = loop.run_until_complete(followed(history, wire))
    finally:
        loop.close()
    assert found == history.versions
    # No version was ever said to be too old, so nothing had to be listed anew, and each change was told, once.
    assert wire.lists == 1
    assert len(told) == len(history.events)
    for name in NAMES:
        heard = [(c.old, c.new) for c in told if c.key == f"ns/{name}"]
        # Each change begins where the one before ended, and no version is told twice.
        assert [old for old, _ in heard[1:]] == [new for _, new in heard[:-1]]
        versions = [int(new.metadata.resource_version) for _, new in heard if new is not None]
        assert versions == sorted(set(versions))
    # Every version that was told did exist, as it was told.
    truth = {version(made): made for kind, made in history.events if kind != "DELETED"}
    for change in told:
        if change.new is not None:
            assert change.new.spec.node_name == truth[change.new.metadata.resource_version]["spec"]["nodeName"]
