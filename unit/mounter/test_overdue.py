"""A pod cannot end, since a program of it waits in a client that another pod uses too."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from dynvol.api.mounts import MountReport, Phase, WantedMount
from dynvol.mount.providers.contract import Answer, Request
from dynvol.mounter import ask
from dynvol.mounter.tools import Timing

from .stagehand import POD, WATCHFUL, Hand, engine, in_thread, prepare, publish, wanted
from .storage import Storage, serving

LATE = "pod-that-is-overdue"
PATIENT = msgspec.structs.replace(WATCHFUL, look=600, hopeless=600, silent=600, silent_poll=0.1)
"""Nothing but an overdue pod makes a client look hopeless."""
Story = Callable[[Hand, Storage], Awaitable[None]]


def play(playground: str, story: Story, *, timing: Timing) -> None:
    """Run a story in which the client of `bucket-a` is shown in two pods."""

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.make_bucket("bucket-a", hello="hello from a\n", large="x" * (1 << 20))
            place = prepare(playground)
            os.mkdir(f"{place.root}/{LATE}")
            publish(place, LATE)
            async with engine(place, timing=timing) as hand:
                await hand.mounted(stays(storage), goes(storage))
                await story(hand, storage)

    asyncio.run(scene())


def stays(storage: Storage) -> WantedMount:
    return wanted(storage)


def goes(storage: Storage) -> WantedMount:
    return msgspec.structs.replace(stays(storage), pod_uid=LATE, path=f"{LATE}/data")


@contextmanager
def waiting_program(hand: Hand) -> Iterator[subprocess.Popen[bytes]]:
    """It reads what the client must fetch. At the end it has ended, and its status is that of `cat`."""
    path = f"{hand.stage.root}/{LATE}/data/large"
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        yield program


async def lose(hand: Hand, storage: Storage) -> None:
    """What the node process does to an overdue pod."""
    hand.engine.set_overdue({LATE})
    hand.engine.set_wanted([stays(storage)])
    await hand.until(lambda found: [r.pod_uid for r in found] == [POD])


async def ended(program: subprocess.Popen[bytes]) -> int:
    await asyncio.to_thread(program.communicate, timeout=60)
    return program.returncode


@pytest.mark.root
def test_a_client_that_answers_nothing_is_killed_as_soon_as_a_pod_cannot_end_for_it(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        first = hand.client(stays(storage))
        storage.pause()
        with waiting_program(hand) as program:
            await hand.until_true(lambda: hand.keeps_waiting(stays(storage)))
            os.kill(first, signal.SIGSTOP)
            storage.resume()
            await lose(hand, storage)
            assert await ended(program) != 0
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 1)])
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    play(playground, story, timing=PATIENT)


@pytest.mark.root
def test_a_client_whose_storage_is_silent_is_killed_and_back_with_the_storage(
    playground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "_DEADLINE", 0.5)

    async def story(hand: Hand, storage: Storage) -> None:
        storage.pause()
        with waiting_program(hand) as program:
            await hand.until_true(lambda: hand.keeps_waiting(stays(storage)))
            await lose(hand, storage)
            await hand.until(lambda found: [(r.phase, r.reason) for r in found] == [(Phase.FAILED, "StorageSilent")])
            assert await ended(program) != 0
        storage.resume()
        said: set[str] = set()

        def is_started_again(found: list[MountReport]) -> bool:
            said.update(report.reason for report in found)
            return [report.restarts for report in found] == [1]

        await hand.until(is_started_again)
        assert "ClientExited" not in said, "it did not die by itself"
        await hand.until(lambda found: [r.phase for r in found] == [Phase.MOUNTED])
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    play(playground, story, timing=msgspec.structs.replace(PATIENT, silent=1))


@pytest.mark.root
def test_a_client_whose_storage_was_silent_for_a_moment_serves_on_and_nothing_fails(
    playground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "_DEADLINE", 0.2)
    asked = 0
    usual = ask._send

    async def send(request: Request) -> Answer:
        nonlocal asked
        asked += 1
        return await usual(request)

    monkeypatch.setattr(ask, "_send", send)

    async def story(hand: Hand, storage: Storage) -> None:
        before = hand.client(stays(storage))
        storage.pause()
        with waiting_program(hand) as program:
            await hand.until_true(lambda: hand.keeps_waiting(stays(storage)))
            await lose(hand, storage)
            await hand.until_true(lambda: asked >= 3)
            storage.resume()
            assert await ended(program) == 0
        assert hand.client(stays(storage)) == before

    play(playground, story, timing=PATIENT)


@pytest.mark.root
def test_the_next_client_is_not_killed_for_a_pod_that_the_last_one_was_killed_for(
    playground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keeps that pod now is not in a client that it never saw."""
    monkeypatch.setattr(ask, "_DEADLINE", 0.5)

    async def story(hand: Hand, storage: Storage) -> None:
        os.kill(hand.client(stays(storage)), signal.SIGSTOP)
        with waiting_program(hand) as program:
            await hand.until_true(lambda: hand.keeps_waiting(stays(storage)))
            await lose(hand, storage)
            await ended(program)
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 1)])
        assert not hand.session(stays(storage))._holds_up.done()
        hand.engine.set_overdue({LATE, "another"})
        assert not hand.session(stays(storage))._holds_up.done()
        hand.engine.set_overdue({LATE, POD})
        assert hand.session(stays(storage))._holds_up.done()

    play(playground, story, timing=PATIENT)
