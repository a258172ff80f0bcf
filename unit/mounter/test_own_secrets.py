"""Credentials that are a claim's own, and storage that wants none: real clients, and a server that checks signatures or not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.mounts import Phase, WantedMount, own_secret_prefix
from dynvol.mounter.secretwatch import watching
from dynvol.mounter.tools import Timing

from .stagehand import QUICK, Hand, engine, in_thread, prepare, wanted
from .storage import ACCESS_KEY, OWN_KEY, SECRET_KEY, Key, Storage, serving

pytestmark = pytest.mark.root

CLIENTS = ["s3fs", "rclone"]
KEY_WORD = re.compile("access|secret|passwd")
MINE: Key = ("mine-access", "mine-secret-which-is-long")
WRONG: Key = ("mine-access", "not-the-secret")
Story = Callable[[Hand, Storage], Awaitable[None]]


def play(playground: str, story: Story, *, secret: dict[str, str], timing: Timing = QUICK) -> None:
    """`secret` is the class's."""

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.up(OWN_KEY, MINE)
            storage.make_bucket("bucket-a", hello="hello from a\n")
            async with engine(prepare(playground, secret=secret), timing=timing) as hand:
                with watching(hand.stage.credentials, hand.engine.refresh_credentials):
                    await story(hand, storage)

    asyncio.run(scene())


def naming(secret: str, mount: WantedMount) -> WantedMount:
    return msgspec.structs.replace(mount, credentials=secret)


def give(hand: Hand, secret: str, key: Key) -> None:
    """As it arrives in the copy."""
    prefix = own_secret_prefix(secret)
    for name, value in zip((names.ACCESS_KEY, names.SECRET_KEY), key, strict=True):
        Path(hand.stage.credentials, "..fresh").write_text(value)
        Path(hand.stage.credentials, "..fresh").rename(Path(hand.stage.credentials, f"{prefix}{name}"))


def secret_files(hand: Hand) -> list[tuple[str, str]]:
    """What each client was given to read, by its mount's source. Those of one that fails come and go."""
    found: list[tuple[str, str]] = []
    for folder, _, names_in_it in os.walk(f"{hand.stage.run}/secrets"):
        for name in names_in_it:
            with contextlib.suppress(FileNotFoundError):
                found.append((os.path.basename(folder).partition("~")[0], Path(folder, name).read_text()))
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_a_mount_waits_for_its_own_secret_and_is_made_with_it(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = naming("mine", wanted(storage, mounter=client))
        hand.engine.set_wanted([mount])
        (found,) = await hand.until(lambda found: [r.reason for r in found] == ["CredentialsAwaited"])
        assert found.phase is Phase.MOUNTING
        give(hand, "mine", MINE)
        await hand.mounted(mount)
        storage.up(MINE)
        await in_thread(lambda: (hand.shown() / "made").write_text("here"))
        await hand.until_true(lambda: (storage.directory / "bucket-a/made").exists())

    play(playground, story, secret={})


def test_no_mount_gets_anothers_credentials_though_its_own_are_wrong(playground: str) -> None:
    """The class's are right, and so are the other claim's."""

    async def story(hand: Hand, storage: Storage) -> None:
        give(hand, "mine", MINE)
        give(hand, "wrong", WRONG)
        mine, wrong, of_class, absent = (
            naming(secret, wanted(storage, name, at=name))
            for name, secret in (("b", "mine"), ("c", "wrong"), ("d", ""), ("e", "absent"))
        )
        hand.engine.set_wanted([mine, wrong, of_class, absent])
        due = ["Mounted ", "Failed AccessDenied", "Mounted ", "Mounting CredentialsAwaited"]
        reports = await hand.until(lambda found: [f"{r.phase} {r.reason}" for r in found] == due)
        assert "the claim's Secret wrong" in reports[1].message
        given = await asyncio.to_thread(secret_files, hand)
        right = {"dynvol-b-1": MINE, "dynvol-c-1": WRONG, "dynvol-d-1": OWN_KEY}
        assert set(given) <= {(s, f"{access}:{key}\n") for s, (access, key) in right.items()}
        assert {"dynvol-b-1", "dynvol-d-1"} <= {source for source, _ in given}
        give(hand, "wrong", MINE)
        await hand.until(lambda found: [r.phase for r in found][:3] == [Phase.MOUNTED] * 3)

    play(playground, story, secret={names.ACCESS_KEY: ACCESS_KEY, names.SECRET_KEY: SECRET_KEY})


@pytest.mark.parametrize("client", CLIENTS)
def test_a_changed_secret_of_a_claim_is_used_without_a_restart_and_a_deleted_one_ends_nothing(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        give(hand, "mine", OWN_KEY)
        mount = naming("mine", wanted(storage, mounter=client))
        await hand.mounted(mount)
        first = hand.client(mount)
        give(hand, "mine", MINE)
        await hand.until_true(lambda: hand.session(mount).view.device is not None and _only(hand) != first, within=20)
        for name in (names.ACCESS_KEY, names.SECRET_KEY):
            os.unlink(f"{hand.stage.credentials}/{own_secret_prefix('mine')}{name}")
        (found,) = await hand.until(lambda found: [(r.phase, r.reason) for r in found] == [(Phase.MOUNTED, "CredentialsPending")])
        assert "the claim's Secret mine" in found.message
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    play(playground, story, secret={})


def test_a_secret_that_is_corrected_is_tried_at_once(playground: str) -> None:
    """However long the pause that the failure with the wrong one has led to."""

    async def story(hand: Hand, storage: Storage) -> None:
        give(hand, "mine", WRONG)
        mount = naming("mine", wanted(storage))
        await hand.failed(mount)
        give(hand, "mine", MINE)
        await hand.mounted(mount)

    play(playground, story, secret={}, timing=msgspec.structs.replace(QUICK, lasting_retry=100, last_retry=100))


def _only(hand: Hand) -> int:
    """The pid of the one client, 0 while there are two."""
    running = [child.pid for child in hand.tools.children._running.values()]
    return running[0] if len(running) == 1 else 0


@pytest.mark.parametrize("client", CLIENTS)
def test_storage_that_anyone_may_use_is_mounted_without_credentials(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        storage.up_for_anyone()
        mount = wanted(storage, mounter=client, anonymous="true")
        await hand.mounted(mount)
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"
        assert not any(KEY_WORD.search(text) for _, text in secret_files(hand))

    play(playground, story, secret={})


@pytest.mark.parametrize("client", CLIENTS)
def test_without_credentials_storage_that_is_not_public_says_what_is_missing(playground: str, client: str) -> None:
    """Also where there are some that would open it."""

    async def story(hand: Hand, storage: Storage) -> None:
        found = await hand.failed(wanted(storage, mounter=client, anonymous="true"))
        assert found.reason == "AccessDenied"
        assert "name a Secret" in found.message

    play(playground, story, secret={names.ACCESS_KEY: ACCESS_KEY, names.SECRET_KEY: SECRET_KEY})
