"""The engine with real clients, a real S3 server and the real kernel."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dynvol.api.mounts import Phase

from .stagehand import POD, Hand, engine, in_thread, prepare, wanted
from .storage import Storage, serving

CLIENTS = ["s3fs", "rclone"]
Story = Callable[[Hand, Storage], Awaitable[None]]


def play(playground: str, story: Story, **secret: str) -> None:
    """Run a story with an engine and a storage that has `bucket-a` with the object `hello`."""

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.make_bucket("bucket-a", hello="hello from a\n")
            async with engine(prepare(playground, secret=secret or None)) as hand:
                await story(hand, storage)

    asyncio.run(scene())


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_wanted_becomes_readable_and_goes_when_it_is_not(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage, mounter=client)
        await hand.mounted(mount)
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert not hand.shown().exists()
        assert Path(hand.stage.root, POD).exists()
        assert os.listdir(hand.stage.cache) == []

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_file_that_was_closed_is_in_the_bucket_when_the_mount_has_gone(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        content = os.urandom(3 << 20)
        await in_thread(lambda: (hand.shown() / "new").write_bytes(content))
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert (storage.directory / "bucket-a" / "new").read_bytes() == content

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_is_killed_is_started_again_and_the_others_stay(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        storage.make_bucket("bucket-b", hello="hello from b\n")
        first, second = wanted(storage, mounter=client), wanted(storage, "b", at="other", bucket="bucket-b", mounter=client)
        await hand.mounted(first, second)
        victim, bystander = hand.client(first), hand.client(second)
        os.kill(victim, signal.SIGKILL)
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 1), (Phase.MOUNTED, 0)])
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"
        assert await in_thread((hand.shown("other") / "hello").read_text) == "hello from b\n"
        assert hand.client(second) == bystander

    play(playground, story)
