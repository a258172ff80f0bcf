"""A storage provider of another distribution is found, judged and mounted like our own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, LabelSelector
from dynvol.api.mounts import Phase
from dynvol.api.providerclass import ClassSpec
from dynvol.mount import mountinfo, providers
from dynvol.mount.providers.contract import DEVICE, Command, Credentials, Place
from dynvol.webhook.rules.claims import review_claim
from dynvol.webhook.rules.classes import review_class
from unit.mount.fusedaemon import CONTENT

from .stagehand import engine, in_thread, prepare, wanted_of

OUTSIDE = Path(__file__).with_name("outside")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `pip install`: its module and its metadata are on the path."""
    monkeypatch.syspath_prepend(OUTSIDE)
    providers.forget()


def claim(**config: str) -> ClaimSpec:
    return ClaimSpec(mountpoint="/data", selector=LabelSelector(), storage_provider="memory", config=config)


def test_its_claims_and_classes_are_judged_by_it() -> None:
    assert providers.validate("memory", {}) == ("greeting is missing",)
    verdict = review_claim(claim(), name="c", namespace="n", neighbours=(), classes={})
    assert verdict.problems == ("greeting is missing",)
    assert not review_claim(claim(greeting="hello"), name="c", namespace="n", neighbours=(), classes={}).problems
    secret = {names.SECRET_NAME_PARAMETER: "keys", names.SECRET_NAMESPACE_PARAMETER: "default"}
    assert not review_class(ClassSpec(provider="memory", parameters=secret)).problems


def test_a_claim_cannot_set_what_is_the_classes_to_set() -> None:
    assert claim(greeting="hello", options="allow_root", mounter="x", allowedOptions="y").parameters == {"greeting": "hello"}


@pytest.mark.root
def test_it_is_mounted(playground: str) -> None:
    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted_of("memory", {"greeting": "hello"}))
            await in_thread((hand.shown() / "directory").mkdir)
            assert await in_thread(lambda: [path.name for path in hand.shown().iterdir()]) == ["directory"]

    asyncio.run(scene())


@pytest.mark.root
def test_a_program_that_cannot_name_its_mount_is_handed_the_device(playground: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mount-s3 is. The program here answers the kernel from the descriptor that it finds open, and never mounts."""
    serve = "import sys; sys.path[:0] = [sys.argv[1]]; from unit.mount.fusedaemon import serve; serve(3)"

    def command(self: object, place: Place) -> Command:
        argv = (sys.executable, "-c", serve, str(Path(__file__).parents[2]), DEVICE, place.source)
        return Command(argv, {}, {}, takes_device=True, read_only=True)

    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            mount = wanted_of("memory", {"greeting": "hello"})
            await hand.mounted(mount)
            assert await in_thread((hand.shown() / "hello").read_bytes) == CONTENT
            (shown,) = mountinfo.read().stack(str(hand.shown()))
            assert shown.source == mount.source
            assert {"nosuid", "nodev"} <= set(shown.options.split(","))
            assert "ro" in shown.super_options.split(",")
            os.kill(hand.client(mount), signal.SIGKILL)
            await hand.until(lambda found: found[0].restarts == 1 and found[0].phase is Phase.MOUNTED)
            assert await in_thread((hand.shown() / "hello").read_bytes) == CONTENT

    memory = providers.provider("memory")
    assert memory is not None
    monkeypatch.setattr(type(memory.client({"greeting": "-"}, read_only=False, credentials=Credentials())), "command", command)
    asyncio.run(scene())


def test_without_it_there_is_no_such_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    providers.forget()
    (problem,) = providers.validate("memory", {})
    assert 'no storage provider "memory"' in problem
