"""What a mounter could not upload: kept on disk, and taken up by the next one, whatever is wanted by then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from dynvol.api.mounts import UNFLUSHED, MountReport, Phase, WantedMount
from dynvol.mount import caches
from dynvol.mounter.stage import Stage

from .stagehand import Hand, engine, in_thread, prepare, wanted
from .storage import Storage, serving

pytestmark = pytest.mark.root


class Left(NamedTuple):
    """Of a mounter that had to go while the storage was away: what was written is in its cache."""

    storage: Storage
    place: Stage
    mount: WantedMount


@asynccontextmanager
async def left_behind(playground: str) -> AsyncIterator[Left]:
    with serving(Path(playground, "s3")) as storage:
        storage.make_bucket("bucket-a")
        left = Left(storage, prepare(playground), wanted(storage, mounter="rclone"))
        await _leave_behind(left.place, storage, left.mount)
        yield left


async def _leave_behind(place: Stage, storage: Storage, mount: WantedMount) -> None:
    async with engine(place) as hand:
        await hand.mounted(mount)
        await in_thread(lambda: os.listdir(hand.shown()))
        storage.down()
        await in_thread(lambda: (hand.shown() / "precious").write_text("data"))
        await hand.until_true(lambda: caches.leftovers(place.cache) != [])
        await hand.engine.close(within=0)
    assert [(left.mount, left.files) for left in caches.leftovers(place.cache)] == [(mount, 1)]


def unflushed(found: list[MountReport]) -> bool:
    return [(r.phase, r.reason) for r in found] == [(Phase.UNMOUNTING, UNFLUSHED)]


async def arrived(hand: Hand, storage: Storage) -> None:
    await hand.until(lambda found: not found)
    assert (storage.directory / "bucket-a/precious").read_text() == "data"
    assert os.listdir(hand.stage.cache) == []


def test_what_is_no_longer_wanted_is_uploaded_when_the_storage_is_back(playground: str) -> None:
    async def scene() -> None:
        async with left_behind(playground) as (storage, place, mount):
            left = caches.recorded(place.cache)
            async with engine(place, left=left) as hand:
                hand.engine.set_wanted([])
                (found,) = await hand.until(unflushed)
                assert "1 file is not in the storage" in found.message
                assert (found.claim_uid, found.path) == (mount.claim_uid, mount.path)
                assert not hand.engine.idle
                storage.up()
                await arrived(hand, storage)

    asyncio.run(scene())


def test_it_is_kept_without_credentials_and_uploaded_when_there_are_some(playground: str) -> None:
    async def scene() -> None:
        async with left_behind(playground) as (storage, place, _):
            storage.up()
            key = Path(place.credentials, "secret-access-key")
            good = await asyncio.to_thread(key.read_text)
            await asyncio.to_thread(key.unlink)
            async with engine(place, left=caches.recorded(place.cache)) as hand:
                hand.engine.set_wanted([])
                (found,) = await hand.until(unflushed)
                assert "`secret-access-key`" in found.message
                await asyncio.to_thread(key.write_text, good)
                await arrived(hand, storage)

    asyncio.run(scene())


def test_a_client_with_less_memory_uploads_what_one_with_more_has_left(playground: str) -> None:
    """rclone gets other options then, and keeps its cache under a name in which options of the storage count."""

    async def scene() -> None:
        async with left_behind(playground) as (storage, place, _):
            storage.up()
            async with engine(place, left=caches.recorded(place.cache), memory=64 << 20) as hand:
                hand.engine.set_wanted([])
                await hand.until(bool)
                await arrived(hand, storage)

    asyncio.run(scene())


def test_what_is_wanted_again_shows_what_was_written_before_it_is_uploaded(playground: str) -> None:
    async def scene() -> None:
        async with left_behind(playground) as (storage, place, mount):
            storage.up()
            async with engine(place, left=caches.recorded(place.cache)) as hand:
                await hand.mounted(mount)
                assert await in_thread((hand.shown() / "precious").read_text) == "data"
                await hand.until_true(lambda: (storage.directory / "bucket-a/precious").exists())

    asyncio.run(scene())


def test_a_claim_that_changed_meanwhile_is_mounted_after_its_data_has_arrived(playground: str) -> None:
    async def scene() -> None:
        async with left_behind(playground) as (storage, place, _), engine(place, left=caches.recorded(place.cache)) as hand:
            changed = wanted(storage, mounter="rclone", spec="2")
            hand.engine.set_wanted([changed])
            (found,) = await hand.until(lambda found: [r.reason for r in found] == [UNFLUSHED])
            assert (found.phase, found.spec_hash) == (Phase.MOUNTING, "2")
            storage.up()
            await hand.mounted(changed)
            assert (storage.directory / "bucket-a/precious").read_text() == "data"

    asyncio.run(scene())


def test_a_client_that_serves_tries_again_when_an_upload_failed(playground: str) -> None:
    """rclone does not, if it is told to upload at once."""

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            bucket = storage.make_bucket("bucket-a")
            async with engine(prepare(playground)) as hand:
                await hand.mounted(wanted(storage, mounter="rclone"))
                await in_thread(lambda: os.listdir(hand.shown()))
                storage.down()
                bucket.rmdir()
                storage.up()
                await in_thread(lambda: (hand.shown() / "precious").write_text("data"))
                await hand.until_true(lambda: "failed to upload" in client_says(hand))
                bucket.mkdir()
                await hand.until_true((bucket / "precious").exists, within=30)
                assert (bucket / "precious").read_text() == "data"

    asyncio.run(scene())


def test_a_client_that_is_killed_mixes_nothing_of_what_a_file_was_into_what_it_has_become(playground: str) -> None:
    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            stored = storage.make_bucket("bucket-a", log="as it was before\n") / "log"
            async with engine(prepare(playground)) as hand:
                mount = wanted(storage, mounter="rclone")
                await hand.mounted(mount)
                assert await in_thread((hand.shown() / "log").read_text) == "as it was before\n"
                file = await asyncio.to_thread((hand.shown() / "log").open, "w")
                await in_thread(lambda: file.write("AS IT IS"))
                await in_thread(file.flush)
                os.kill(hand.client(mount), signal.SIGKILL)
                with contextlib.suppress(OSError):
                    await in_thread(file.close)
                await hand.until_true(lambda: stored.read_text() != "as it was before\n", within=30)
                assert stored.read_text() == "AS IT IS"

    asyncio.run(scene())


def client_says(hand: Hand) -> str:
    (child,) = hand.tools.children._running.values()
    return child.output


def test_a_cache_in_which_nothing_waits_is_removed_without_a_client(playground: str) -> None:
    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            place = prepare(playground)
            os.makedirs(place.cache)
            caches.record(place.cache, wanted(storage))
            storage.down()
            async with engine(place, left=caches.recorded(place.cache)) as hand:
                assert os.listdir(place.cache) != [], "it is not known yet whether it is wanted"
                hand.engine.set_wanted([])
                await hand.until_true(lambda: os.listdir(place.cache) == [])
                await hand.until_true(lambda: hand.engine.idle)

    asyncio.run(scene())
