"""Credentials change while programs read and write: clients with the new ones take over, and nothing that works fails."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.mounts import MountReport, Phase
from dynvol.mount import mountinfo, propagation
from dynvol.mounter.decide import Show
from dynvol.mounter.engine import Engine
from dynvol.mounter.secretwatch import watching

from .stagehand import QUICK, Hand, engine, in_thread, prepare, wanted
from .storage import OWN_KEY, Key, Storage, serving

pytestmark = pytest.mark.root

CLIENTS = ["s3fs", "rclone"]
OTHER_KEY: Key = ("other-access", "other-secret-which-is-long")
Story = Callable[[Hand, Storage], Awaitable[None]]


def play(playground: str, story: Story) -> None:
    """With a root that is shared, as kubelet shares it, and a storage that takes both keys."""

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.up(OWN_KEY, OTHER_KEY)
            storage.make_bucket("bucket-a", hello="hello from a\n")
            place = prepare(playground)
            propagation.bind(place.root, place.root, recursive=True)
            propagation.make_shared(place.root)
            async with engine(place, timing=msgspec.structs.replace(QUICK, retire=10)) as hand:
                with watching(place.credentials, hand.engine.refresh_credentials):
                    await story(hand, storage)

    asyncio.run(scene())


async def rotate(hand: Hand, key: Key = OTHER_KEY) -> None:
    """As kubelet does it: another directory, and one link that is renamed."""

    def swap() -> None:
        place = Path(hand.stage.credentials)
        fresh = Path(tempfile.mkdtemp(prefix="..", dir=place))
        for name, value in zip((names.ACCESS_KEY, names.SECRET_KEY), key, strict=True):
            (fresh / name).write_text(value)
        (place / "..data_tmp").symlink_to(fresh.name)
        (place / "..data_tmp").rename(place / "..data")
        for name in (names.ACCESS_KEY, names.SECRET_KEY):
            (place / f"{name}.new").symlink_to(f"..data/{name}")
            (place / f"{name}.new").rename(place / name)

    await asyncio.to_thread(swap)


def clients(hand: Hand) -> list[int]:
    return sorted(child.pid for child in hand.tools.children._running.values())


def devices(hand: Hand) -> list[tuple[int, int]]:
    return [mount.device for mount in mountinfo.read().stack(str(hand.shown()))]


async def replaced(hand: Hand, before: list[tuple[int, int]]) -> None:
    """Another client's mount shows, and that alone."""
    await hand.until_true(lambda: len(now := devices(hand)) == 1 and now != before, within=20)


def keep_looking(path: Path, failures: list[str]) -> None:
    """Opens and reads without a pause, and stops when told to or when it fails."""
    while "stop" not in failures:
        try:
            assert path.read_text() == "hello from a\n"
        except (OSError, AssertionError) as error:
            failures.append(repr(error))
            return


def keep_writing(path: Path, cue: threading.Event, failures: list[str]) -> None:
    """On each cue, or now and then without, writes a file anew, and a new file, closes them and reads them back."""
    number = 0
    while "stop" not in failures:
        cue.wait(0.3)
        number += 1
        for file in (path, path.with_name(f"{path.name}-{number}")):
            try:
                file.write_text(f"writing {number}\n")
                for _ in range(20):
                    found = file.read_text()
                    assert found == f"writing {number}\n", found
                    time.sleep(0.005)
            except (OSError, AssertionError) as error:
                failures.append(f"{file.name} after writing {number}: {error!r}")


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_closed_while_a_successor_comes_up_is_read_through_it(playground: str, client: str) -> None:
    rotate_under_writing(playground, client, due=lambda hand: len(clients(hand)) == 2)


def test_what_is_closed_in_the_moment_of_the_exchange_is_read_after_it(playground: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That moment is made longer than it is, and shorter than rclone's upload takes."""

    def late(engine: Engine, action: Show, device: tuple[int, int], private: str) -> None:
        time.sleep(0.1)
        show(engine, action, device, private)

    show = Engine._show_now
    monkeypatch.setattr(Engine, "_show_now", late)
    rotate_under_writing(playground, "rclone", due=has_other_client_than_shows)


def has_other_client_than_shows(hand: Hand) -> bool:
    (session,) = hand.engine._sessions.values()
    return session.view.device not in devices(hand)


def rotate_under_writing(playground: str, client: str, *, due: Callable[[Hand], bool]) -> None:
    """A program writes when it is `due`, each time that the credentials change."""

    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage, mounter=client)
        await hand.mounted(mount)
        cue, failures = threading.Event(), list[str]()
        program = asyncio.create_task(asyncio.to_thread(keep_writing, hand.shown() / "latest", cue, failures))
        for key in (OTHER_KEY, OWN_KEY) * 2:
            before = devices(hand)
            await rotate(hand, key)
            await hand.until_true(lambda: due(hand))
            cue.set()
            cue.clear()
            await replaced(hand, before)
            await hand.until_true(lambda: len(clients(hand)) == 1)
        failures.append("stop")
        await program
        assert failures == ["stop"]

    play(playground, story)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_program_that_opens_files_all_the_time_never_misses_one(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        before, failures = devices(hand), list[str]()
        program = asyncio.create_task(asyncio.to_thread(keep_looking, hand.shown() / "hello", failures))
        await rotate(hand)
        await replaced(hand, before)
        await hand.until_true(lambda: len(clients(hand)) == 1)
        failures.append("stop")
        await program
        assert failures == ["stop"]
        storage.up(OTHER_KEY)
        assert await in_thread(lambda: os.listdir(hand.shown())) == ["hello"]
        (found,) = hand.engine.reports()
        assert (found.phase, found.reason, found.restarts) == (Phase.MOUNTED, "", 0)

    play(playground, story)


@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_open_stays_open_and_what_is_written_to_it_arrives(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        before = devices(hand)
        reading = await asyncio.to_thread((hand.shown() / "hello").open)
        await rotate(hand)
        await replaced(hand, before)
        assert len(clients(hand)) == 2
        assert await in_thread(reading.read) == "hello from a\n"
        await in_thread(reading.close)
        await hand.until_true(lambda: len(clients(hand)) == 1)
        await hand.until_true(lambda: os.listdir(f"{hand.stage.cache}/{wanted(storage).source}") == ["1"])

    play(playground, story)


def test_what_was_open_all_the_while_is_read_through_the_successor_once_it_is_in_the_storage(playground: str) -> None:
    """Though that had listed the directory before, and remembers for a minute."""

    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter="rclone"))
        before, path = devices(hand), hand.shown() / "hello"
        file = await asyncio.to_thread(path.open, "a")
        await rotate(hand)
        await replaced(hand, before)
        assert await in_thread(path.read_text) == "hello from a\n"
        await in_thread(lambda: file.write("and more\n"))
        await in_thread(file.close)
        await hand.until_true(lambda: len(clients(hand)) == 1)
        # The kernel remembers for a second by itself.
        await asyncio.sleep(1.1)
        assert await in_thread(path.read_text) == "hello from a\nand more\n"

    play(playground, story)


def test_a_file_that_is_being_written_goes_on_with_the_earlier_credentials_until_it_is_closed(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter="rclone"))
        before = devices(hand)
        file = await asyncio.to_thread((hand.shown() / "log").open, "w")
        await in_thread(lambda: file.write("begun\n"))
        await in_thread(file.flush)
        await rotate(hand)
        (found,) = await hand.until(lambda found: [r.reason for r in found] == ["CredentialsPending"])
        assert found.phase is Phase.MOUNTED
        assert devices(hand) == before
        await in_thread(lambda: file.write("ended\n"))
        await in_thread(file.close)
        await replaced(hand, before)
        assert await in_thread((hand.shown() / "log").read_text) == "begun\nended\n"
        assert (storage.directory / "bucket-a/log").read_text() == "begun\nended\n"

    play(playground, story)


def test_what_earlier_credentials_can_no_longer_upload_the_new_ones_do(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter="rclone"))
        await in_thread(lambda: os.listdir(hand.shown()))
        storage.up(OTHER_KEY)
        await in_thread(lambda: (hand.shown() / "precious").write_text("data"))
        await rotate(hand)
        await hand.until_true(lambda: (storage.directory / "bucket-a/precious").exists(), within=20)
        await hand.until(lambda found: [(r.phase, r.reason) for r in found] == [(Phase.MOUNTED, "")])
        assert await in_thread((hand.shown() / "precious").read_text) == "data"

    play(playground, story)


@pytest.mark.parametrize("client", CLIENTS)
def test_credentials_that_do_not_work_are_reported_and_not_used(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        before = devices(hand)
        await rotate(hand, ("other-access", "wrong-secret"))
        (found,) = await hand.until(_pending)
        assert "earlier credentials" in found.message
        assert "secret-access-key" in found.message
        assert devices(hand) == before
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"
        storage.up(OWN_KEY, ("other-access", "wrong-secret"))
        await replaced(hand, before)
        await hand.until(lambda found: [(r.phase, r.reason) for r in found] == [(Phase.MOUNTED, "")])

    play(playground, story)


def _pending(found: list[MountReport]) -> bool:
    return [(r.phase, r.reason) for r in found] == [(Phase.MOUNTED, "CredentialsPending")]


def test_a_mount_that_goes_while_files_are_open_in_an_earlier_client_leaves_nothing(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage))
        before = devices(hand)
        reading = await asyncio.to_thread((hand.shown() / "hello").open)
        await rotate(hand)
        await replaced(hand, before)
        hand.engine.set_wanted([])
        await hand.until_true(lambda: not devices(hand))
        assert await in_thread(reading.read) == "hello from a\n"
        await in_thread(reading.close)
        await hand.until(lambda found: not found)
        assert clients(hand) == []
        assert os.listdir(hand.stage.cache) == []

    play(playground, story)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_successor_that_is_killed_takes_nothing_from_a_client_that_still_has_files_open(playground: str, client: str) -> None:
    """Its successor begins with caches: those of the client that retires are not among them."""

    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        before = devices(hand)
        file = await asyncio.to_thread((hand.shown() / "hello").open, "a")
        (first,) = clients(hand)
        await rotate(hand)
        await replaced(hand, before)
        await in_thread(lambda: file.write("written through the first\n"))
        await in_thread(file.flush)
        (second,) = set(clients(hand)) - {first}
        os.kill(second, signal.SIGKILL)
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 1)])
        assert first in clients(hand)
        await in_thread(lambda: file.write("and more\n"))
        await in_thread(file.close)
        await hand.until_true(lambda: first not in clients(hand))
        arrived = storage.directory / "bucket-a/hello"
        await hand.until_true(lambda: arrived.read_text() == "hello from a\nwritten through the first\nand more\n")

    play(playground, story)


def test_what_was_closed_late_in_an_earlier_client_does_not_undo_what_was_written_since(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter="rclone"))
        before, stored = devices(hand), storage.directory / "bucket-a/hello"
        file = await asyncio.to_thread((hand.shown() / "hello").open, "r+")
        assert await in_thread(file.read) == "hello from a\n"
        (first,) = clients(hand)
        await rotate(hand)
        await replaced(hand, before)
        await in_thread(lambda: file.write("through the first"))
        await in_thread(lambda: os.listdir(hand.shown()))
        storage.down()
        await in_thread(file.close)
        await in_thread(lambda: (hand.shown() / "hello").write_text("through the second"))
        await hand.until_true(lambda: first not in clients(hand))
        (second,) = clients(hand)
        os.kill(second, signal.SIGSTOP)
        storage.up(OTHER_KEY)
        await hand.until_true(lambda: os.listdir(f"{hand.stage.cache}/{wanted(storage).source}") == ["1"])
        assert stored.read_text() == "hello from a\n"
        os.kill(second, signal.SIGCONT)
        await hand.until_true(lambda: stored.read_text() == "through the second", within=30)

    play(playground, story)
