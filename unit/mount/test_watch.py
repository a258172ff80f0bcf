"""Changes of the mount table, as the kernel announces them."""

from __future__ import annotations

import asyncio
import os

import pytest
from blockbuster import blockbuster_ctx

from dynvol.mount import syscalls
from dynvol.mount.mountinfo import MountTable
from dynvol.mount.probe import Liveness, MountProber
from dynvol.mount.watch import MountWatcher

pytestmark = pytest.mark.root


def mount_at(path: str) -> None:
    os.makedirs(path, exist_ok=True)
    syscalls.mount(path, source="x", fstype="tmpfs")


def test_a_waiter_is_told_of_a_mount_and_of_its_end(playground: str) -> None:
    place = f"{playground}/a"

    async def watch() -> None:
        async with MountWatcher() as watcher, asyncio.timeout(5):
            waiter = asyncio.create_task(watcher.newer_than(watcher.table))
            await asyncio.sleep(0)
            mount_at(place)
            table = await waiter
            assert table.at(place) is not None and watcher.table is table
            syscalls.unmount(place)
            assert (await watcher.newer_than(table)).at(place) is None

    asyncio.run(watch())


def test_every_one_of_many_changes_in_turn_is_seen(playground: str) -> None:
    """Each is made after the last was seen, so one that was lost would be waited for in vain."""

    async def watch() -> None:
        async with MountWatcher(quiet=0.0) as watcher, asyncio.timeout(20):
            for number in range(100):
                place = f"{playground}/{number}"
                mount_at(place)
                await watcher.wait_for(lambda table, place=place: table.at(place) is not None)  # type: ignore[misc]

    asyncio.run(watch())


def test_changes_from_another_thread_while_reading_are_not_lost(playground: str) -> None:
    def churn() -> None:
        for number in range(200):
            mount_at(f"{playground}/{number}")

    async def watch() -> None:
        async with MountWatcher(quiet=0.0) as watcher, asyncio.timeout(20):
            work = asyncio.create_task(asyncio.to_thread(churn))
            await watcher.wait_for(lambda table: len(table.below(playground)) == 200)
            await work

    asyncio.run(watch())


def test_a_burst_is_one_change(playground: str) -> None:
    async def watch() -> int:
        seen = 0
        async with MountWatcher(quiet=0.05) as watcher, asyncio.timeout(5):
            table = watcher.table
            for number in range(20):
                mount_at(f"{playground}/{number}")
            while len(table.below(playground)) < 20:
                table = await watcher.newer_than(table)
                seen += 1
        return seen

    assert asyncio.run(watch()) == 1


def test_a_predicate_that_holds_is_answered_at_once_and_one_that_never_does_times_out(playground: str) -> None:
    async def watch() -> None:
        async with MountWatcher() as watcher:
            assert await watcher.wait_for(lambda table: table.at(playground) is not None, timeout=0) is watcher.table
            with pytest.raises(TimeoutError):
                await watcher.wait_for(lambda table: False, timeout=0.01)

    asyncio.run(watch())


def test_all_waiters_hear_and_one_that_is_cancelled_takes_no_news_away(playground: str) -> None:
    async def watch() -> None:
        async with MountWatcher() as watcher, asyncio.timeout(5):
            waiters = [asyncio.create_task(watcher.newer_than(watcher.table)) for _ in range(3)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            mount_at(f"{playground}/a")
            results = await asyncio.gather(*waiters, return_exceptions=True)
            assert isinstance(results[0], asyncio.CancelledError)
            assert all(isinstance(result, MountTable) for result in results[1:])

    asyncio.run(watch())


def test_leaving_closes_every_descriptor(playground: str) -> None:
    async def watch() -> None:
        before = os.listdir("/proc/self/fd")
        async with MountWatcher():
            mount_at(f"{playground}/a")
        assert os.listdir("/proc/self/fd") == before

    asyncio.run(watch())


def test_neither_the_watcher_nor_a_probe_blocks_the_event_loop(playground: str) -> None:
    async def watch() -> None:
        async with MountWatcher() as watcher, MountProber() as prober, asyncio.timeout(5):
            await asyncio.to_thread(mount_at, f"{playground}/a")
            table = await watcher.wait_for(lambda table: table.at(f"{playground}/a") is not None)
            mount = table.at(f"{playground}/a")
            assert mount is not None
            assert (await prober.probe(mount)).liveness is Liveness.ALIVE

    with blockbuster_ctx():
        asyncio.run(watch())
