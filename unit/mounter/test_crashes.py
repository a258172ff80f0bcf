"""A mounter is killed at each system call that it or its client makes in a whole life, and another takes its place.

As in a mount pod, a life is a container: namespaces of mounts and processes of its own, of which only what propagates and the
volumes outlast it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from dynvol.api.mounts import WantedMount
from dynvol.mount import caches, mountinfo, propagation
from dynvol.mounter.stage import Stage
from unit.mount.killing import killed_before

from .stagehand import POD, Hand, engine, in_thread, prepare, wanted
from .storage import serving

Story = Callable[[Hand], Awaitable[None]]

MOST_CALLS = 400
"""Of one life. More than this is a loop."""


def node_side(playground: str) -> Stage:
    """A root that is shared with mount pods, and their cache on disk."""
    place = prepare(playground)
    propagation.bind(place.root, place.root, recursive=True)
    propagation.make_shared(place.root)
    return place


def live(place: Stage, *stories: Story) -> None:
    """A mounter's life: one story after the other, and the end that SIGTERM brings."""

    async def scene() -> None:
        async with engine(place) as hand:
            for story in stories:
                await story(hand)

    asyncio.run(scene())


def live_undisturbed(place: Stage, *stories: Story) -> None:
    assert killed_before(MOST_CALLS * 10, lambda: live(place, *stories), contained=True) is None


def mounts(mount: WantedMount) -> Story:
    async def story(hand: Hand) -> None:
        await hand.mounted(mount)
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"
        assert len(mountinfo.read().stack(str(hand.shown()))) == 1

    return story


def writes(note: Path) -> Story:
    """What a program does: it writes a file, closes it, and only then says so."""

    def write(hand: Hand) -> None:
        (hand.shown() / note.name).write_text("closed\n")
        note.touch()

    async def story(hand: Hand) -> None:
        await in_thread(lambda: write(hand))

    return story


async def unmounts(hand: Hand) -> None:
    hand.engine.set_wanted([])
    await hand.until(lambda found: not found)


def left_over(place: Stage) -> list[str]:
    """Of mounters, once the node process has looked after their caches: mounts and, in their places, files and directories."""
    waiting = caches.release(place.cache)
    below = [path for base in (place.run, place.cache, f"{place.root}/{POD}") for path in Path(base).rglob("*")]
    return waiting + [str(path) for path in below] + [m.path for m in mountinfo.read() if m.source.startswith("dynvol-")]


@pytest.mark.root
@pytest.mark.parametrize("still_wanted", [True, False], ids=["wanted still", "withdrawn meanwhile"])
def test_a_mounter_killed_at_any_call_leaves_nothing_that_the_next_cannot_put_right(playground: str, still_wanted: bool) -> None:
    with serving(Path(playground, "s3")) as storage:
        bucket = storage.make_bucket("bucket-a", hello="hello from a\n")
        place = node_side(playground)
        mount = wanted(storage, mounter="s3fs")
        cut_short = set()
        for number in range(MOST_CALLS):
            note = Path(playground, f"note-{number}")
            stories = (mounts(mount), writes(note), unmounts)
            call = killed_before(number, partial(live, place, *stories), contained=True)
            if note.exists():
                assert (bucket / note.name).read_text() == "closed\n", f"lost, at call {number}, to {call}"
            if call is None:
                break
            cut_short.add(call)
            live_undisturbed(place, *([mounts(mount), unmounts] if still_wanted else [unmounts]))
            assert left_over(place) == [], f"after call {number}, to {call}"
            assert (bucket / "hello").read_text() == "hello from a\n"
        else:
            pytest.fail(f"still at it after {MOST_CALLS} calls")
        assert cut_short == {
            "mkdir",
            "chmod",
            "create",
            "rename",
            "mount",
            "open_tree",
            "mount_setattr",
            "move_mount",
            "umount",
            "remove",
        }
