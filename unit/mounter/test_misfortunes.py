"""Whatever happens to clients, to the storage and to what is wanted, in whatever order: once it is over, all that is wanted shows.

`DYNVOL_LONG=1`: hundreds of rounds instead of two. A failure names the seed and what was done; the same seed does it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.mounts import Phase, WantedMount
from dynvol.mounter import ask

from .stagehand import POD, WATCHFUL, Hand, engine, in_thread, prepare, publish, wanted
from .storage import ACCESS_KEY, SECRET_KEY, Key, Storage, serving

LONG = bool(os.environ.get("DYNVOL_LONG"))
ROUNDS = 12 if LONG else 2
FIRST_SEEDS = range(0, 12 * 15, 12) if LONG else (0,)
SECOND_POD = "second-pod"
KEYS: tuple[Key, ...] = ((ACCESS_KEY, SECRET_KEY), ("other-access", "other-secret-which-is-long"))
HASTY = msgspec.structs.replace(
    WATCHFUL, stable=1, linger=1, leave=1, retire=2, look=0.5, stuck=2, hopeless=2, silent=1, silent_poll=0.1, last_retry=0.3
)
BRIEFLY = (0.0, 0.05, 0.2, 0.8)
"""Seconds, at most, between two misfortunes: within a start, a look, a change of keys, or after it."""


class Misfortunes:
    """What may happen, drawn from a seed; and the end of all of it."""

    def __init__(self, hand: Hand, storage: Storage, *, draw: random.Random, every: list[WantedMount]) -> None:
        self._hand = hand
        self._storage = storage
        self._draw = draw
        self._every = every
        self._stopped: set[int] = set()
        self.done: list[str] = []

    async def strike(self) -> None:
        happening: tuple[Callable[[], None], ...] = (
            lambda: self._signal(signal.SIGKILL),
            lambda: self._signal(signal.SIGSTOP),
            self._storage.pause,
            self._storage.resume,
            self._change_keys,
            self._want_some,
            self._find_overdue,
            lambda: self._hand.engine.retry(self._draw.choice(self._every).source),
        )
        for _ in range(self._draw.randint(2, 7)):
            number = self._draw.randrange(len(happening))
            self.done.append(("kill", "stop", "pause", "resume", "keys", "want some", "overdue", "retry")[number])
            happening[number]()
            await asyncio.sleep(self._draw.random() * self._draw.choice(BRIEFLY))

    def end(self) -> None:
        self._storage.resume()
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()
        self._hand.engine.set_overdue(())
        self._hand.engine.set_wanted(self._every)

    def _signal(self, number: signal.Signals) -> None:
        mount = self._draw.choice(self._every)
        if self._hand.has_client(mount):
            pid = self._hand.client(mount)
            os.kill(pid, number)
            self._stopped.add(pid)

    def _change_keys(self) -> None:
        access, secret = self._draw.choice(KEYS)
        Path(self._hand.stage.credentials, names.ACCESS_KEY).write_text(access)
        Path(self._hand.stage.credentials, names.SECRET_KEY).write_text(secret)
        self._hand.engine.refresh_credentials()

    def _want_some(self) -> None:
        self._hand.engine.set_wanted(self._draw.sample(self._every, self._draw.randint(0, len(self._every))))

    def _find_overdue(self) -> None:
        self._hand.engine.set_overdue({SECOND_POD})
        self._hand.engine.set_wanted([mount for mount in self._every if mount.pod_uid == POD])


async def all_shows(hand: Hand, every: list[WantedMount]) -> None:
    """Reports are as late as the mount table is read, so a mount that was just taken away may be told of once more."""
    async with asyncio.timeout(30):
        while not (all_told(hand, every) and await in_thread(lambda: all(can_read(hand, mount) for mount in every))):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def all_told(hand: Hand, every: list[WantedMount]) -> bool:
    return [report.phase for report in hand.engine.reports()] == [Phase.MOUNTED] * len(every)


def can_read(hand: Hand, mount: WantedMount) -> bool:
    try:
        return Path(hand.stage.shown(mount.path), "hello").read_text() == "hello from a\n"
    except OSError:
        return False


@pytest.mark.root
@pytest.mark.parametrize("first_seed", FIRST_SEEDS)
@pytest.mark.parametrize(("client", "table_late_by"), [("s3fs", 0.2), ("rclone", 0.005)])
def test_when_it_is_over_all_that_is_wanted_shows(
    playground: str, monkeypatch: pytest.MonkeyPatch, client: str, table_late_by: float, first_seed: int
) -> None:
    monkeypatch.setattr(ask, "_DEADLINE", 0.5)

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.up(*KEYS)
            storage.make_bucket("bucket-a", hello="hello from a\n")
            place = prepare(playground)
            os.mkdir(f"{place.root}/{SECOND_POD}")
            publish(place, SECOND_POD)
            own = [wanted(storage, claim, at=claim, mounter=client) for claim in ("a", "b")]
            every = own + [msgspec.structs.replace(m, pod_uid=SECOND_POD, path=m.path.replace(POD, SECOND_POD)) for m in own]
            async with engine(place, timing=HASTY, table_late_by=table_late_by) as hand:
                hand.engine.set_wanted(every)
                await all_shows(hand, every)
                for seed in range(first_seed, first_seed + ROUNDS):
                    misfortunes = Misfortunes(hand, storage, draw=random.Random(f"{client} {seed}"), every=every)
                    await misfortunes.strike()
                    misfortunes.end()
                    try:
                        await all_shows(hand, every)
                    except TimeoutError as problem:
                        problem.add_note(f"seed {seed}: {', '.join(misfortunes.done)}; {hand.engine.reports()}")
                        raise

    asyncio.run(scene())
