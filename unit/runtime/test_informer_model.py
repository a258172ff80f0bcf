"""Whatever the server does, an informer that is left in peace for a while knows what the server knows, and so do its handlers."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from dynvol.runtime.errors import Expired, SourceError, Throttled, TooLargeVersion, Unavailable
from dynvol.runtime.informer import Informer
from dynvol.runtime.source import Unreadable
from dynvol.runtime.store import Change

from .collection import Collection, OldServer, Thing
from .tasks import pass_time, running

pytestmark = pytest.mark.looptime

ERRORS: list[Callable[[], Exception]] = [
    lambda: Unavailable("reset"),
    lambda: Throttled("slow down", retry_after=3.0),
    lambda: Expired("too old"),
    lambda: TooLargeVersion("not yet"),
    lambda: SourceError("forbidden"),
    lambda: ValueError("a bug"),
]


class Follower:
    """Knows what it was told, and which of it did not fit."""

    def __init__(self) -> None:
        self.objects: dict[str, Thing] = {}
        self.misfits: list[Change[Thing]] = []

    def __call__(self, change: Change[Thing]) -> None:
        if change.old != self.objects.get(change.key):
            self.misfits.append(change)
        if change.new is None:
            self.objects.pop(change.key, None)
        else:
            self.objects[change.key] = change.new


def something_happens(server: Collection, chance: random.Random) -> None:
    name = chance.choice("abcdefgh")
    match chance.randrange(12):
        case 0 | 1 | 2 | 3:
            server.put(name, owners=tuple(chance.sample("xyz", chance.randrange(3))))
        case 4 | 5 if name in server.objects:
            server.delete(name)
        case 6:
            server.bookmark()
        case 7:
            server.cut()
        case 8:
            server.cut(chance.choice(ERRORS)())
        case 9:
            server.forget()
        case 10:
            server.fail(chance.choice(["list", "watch"]), chance.choice(ERRORS)())
        case 11:
            server.tell(Unreadable("gibberish"))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("kind", "streaming"),
    [(Collection, True), (Collection, False), (OldServer, True)],
    ids=["streamed", "paged", "streaming refused by silence"],
)
async def test_it_converges_to_what_the_server_has(kind: type[Collection], streaming: bool, seed: int) -> None:
    chance = random.Random(seed)
    server, early = kind(), Follower()
    informer: Informer[Thing] = Informer(
        server, name="things", indexers={"owner": lambda of: of.owners}, streaming=streaming, chance=chance.random
    )
    informer.add_handler(early)
    followers = [early]
    async with running(informer.run()):
        for _ in range(8):
            for _ in range(25):
                something_happens(server, chance)
                await pass_time(chance.choice([0.0, 0.001, 0.1, 2.0]))
            followers.append(late := Follower())
            informer.add_handler(late)
            await pass_time(400)
            assert {t.metadata.key: t for t in informer.store} == server.objects
            assert {t.metadata.key for t in informer.store.by_index("owner", "x")} == {
                key for key, t in server.objects.items() if "x" in t.owners
            }
            for follower in followers:
                assert follower.objects == server.objects
                assert follower.misfits == []
