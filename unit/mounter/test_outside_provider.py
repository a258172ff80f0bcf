"""A storage provider of another distribution is found, judged and mounted like our own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, LabelSelector
from dynvol.api.providerclass import ClassSpec
from dynvol.mount import providers
from dynvol.webhook.rules.claims import review_claim
from dynvol.webhook.rules.classes import review_class

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


def test_without_it_there_is_no_such_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    providers.forget()
    (problem,) = providers.validate("memory", {})
    assert 'no storage provider "memory"' in problem
