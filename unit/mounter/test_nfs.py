"""A mount that the kernel serves has a session like any other. ramfs plays NFS, which not every kernel has: the program, its mount,
its name in the table, and all that the engine does are the real ones. A silent server is played by holding up the programs that ask
the mount."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from dynvol.api.mounts import UNFLUSHED, Phase
from dynvol.mount import mountinfo, nfs, syscalls
from dynvol.mounter import stage
from dynvol.mounter.life import Life

from .nfsserver import without_client
from .stagehand import WATCHFUL, engine, prepare, wanted_of

pytestmark = pytest.mark.root

HOME = {"server": "127.0.0.1", "path": "/exports/home"}
MOUNT = wanted_of("nfs", HOME)
READ_ONLY = msgspec.structs.replace(MOUNT, read_only=True)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfs, "FSTYPE", "ramfs")
    monkeypatch.setattr(mountinfo, "NFS", frozenset({"nfs", "nfs4", "ramfs"}))


@without_client
def test_a_kernel_without_nfs_is_reported_in_words(playground: str) -> None:
    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            report = await hand.failed(MOUNT)
            assert report.reason == "KernelWithoutNFS"
            assert "load its module nfsv4" in report.message

    asyncio.run(scene())


def test_it_shows_and_goes(playground: str, played: None) -> None:
    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(MOUNT)
            (shown,) = mountinfo.read().stack(str(hand.shown()))
            assert (shown.name, shown.source) == (MOUNT.source, f"{MOUNT.source}:/exports/home")
            (hand.shown() / "file").write_text("x")
            hand.engine.set_wanted([])
            await hand.engine.until_idle()
            assert not hand.shown().exists()

    asyncio.run(scene())


def test_what_is_read_only_cannot_be_written(playground: str, played: None) -> None:
    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(READ_ONLY)
            (shown,) = mountinfo.read().stack(str(hand.shown()))
            assert {"ro", "nosuid", "nodev"} <= set(shown.options.split(","))
            with pytest.raises(OSError, match="Read-only file system"):
                (hand.shown() / "file").touch()

    asyncio.run(scene())


def test_a_program_that_is_killed_takes_no_file_with_it_that_is_open(playground: str, played: None) -> None:
    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(MOUNT)
            with (hand.shown() / "file").open("w+") as file:
                os.kill(hand.client(MOUNT), signal.SIGKILL)
                await hand.until(lambda found: found[0].restarts == 1 and found[0].phase is Phase.MOUNTED)
                file.write("goes on")
                file.seek(0)
                assert file.read() == "goes on"
            assert len(mountinfo.read().stack(str(hand.shown()))) == 1

    asyncio.run(scene())


def test_what_a_killed_mounter_left_is_taken_away_by_the_next(playground: str, played: None) -> None:
    place = prepare(playground)

    async def first_life() -> None:
        async with engine(place) as hand:
            await hand.mounted(MOUNT)
            os._exit(0)

    pid = os.fork()
    if pid == 0:
        asyncio.run(first_life())
    os.waitpid(pid, 0)
    assert stage.ours(mountinfo.read(), place)

    async def second_life() -> None:
        async with engine(place) as hand:
            assert not stage.ours(mountinfo.read(), place)
            await hand.mounted(MOUNT)

    asyncio.run(second_life())


class Server:
    """It is not there, but it can be silent: whoever asks the mount something then waits for as long as it is."""

    def __init__(self, playground: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._silent = Path(playground, "silent")
        waits = ("/bin/sh", "-c", f'while [ -e {self._silent} ]; do sleep 0.05; done; exec "$@"', "sh")
        ask = Life._ask
        monkeypatch.setattr(Life, "_ask", lambda life, question, *argv: ask(life, question, *waits, *argv))

        self.forced: list[str] = []
        """What was unmounted without waiting for it, by the program that does that: not by the mount's own, which would wait."""
        take_away = nfs.take_away

        def noted(path: str) -> bool:
            self.forced.append(path)
            return take_away(path)

        monkeypatch.setattr(nfs, "take_away", noted)

    def falls_silent(self) -> None:
        self._silent.touch()

    def answers(self) -> None:
        self._silent.unlink()


def test_a_silent_server_is_reported_and_waited_for(playground: str, played: None, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(playground, monkeypatch)

    async def scene() -> None:
        async with engine(prepare(playground), timing=WATCHFUL) as hand:
            await hand.mounted(MOUNT)
            server.falls_silent()
            (report,) = await hand.until(lambda found: found[0].reason == "EndpointTimeout")
            assert report.phase is Phase.FAILED
            program = hand.client(MOUNT)
            await asyncio.sleep(2 * WATCHFUL.hopeless)
            server.answers()
            (report,) = await hand.until(lambda found: found[0].phase is Phase.MOUNTED)
            assert (report.restarts, hand.client(MOUNT)) == (0, program)

    asyncio.run(scene())


def test_a_mount_that_goes_waits_until_its_server_has_what_was_written(
    playground: str, played: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(playground, monkeypatch)

    async def scene() -> None:
        async with engine(prepare(playground), timing=WATCHFUL) as hand:
            await hand.mounted(MOUNT)
            program = hand.client(MOUNT)
            server.falls_silent()
            hand.engine.set_wanted([])
            (report,) = await hand.until(lambda found: found[0].reason == UNFLUSHED)
            await asyncio.sleep(2 * WATCHFUL.stuck)
            assert report.phase is Phase.UNMOUNTING
            assert not hand.shown().exists(), "it is gone from the pod at once"
            assert hand.client(MOUNT) == program, "and its data is kept"
            server.answers()
            await hand.engine.until_idle()

    asyncio.run(scene())


def test_one_that_a_program_still_uses_goes_by_force(playground: str, played: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what waits for the server could not be ended, not even by kubelet."""
    server = Server(playground, monkeypatch)

    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(MOUNT)
            with (hand.shown() / "file").open("w"):
                server.falls_silent()
                hand.engine.set_wanted([])
                await hand.until(lambda found: bool(found) and found[0].reason == UNFLUSHED)
                await hand.engine.until_idle()
                assert len(server.forced) == 1

    asyncio.run(scene())


def test_what_the_kernel_mounts_below_by_itself_is_left_to_it(playground: str, played: None) -> None:
    """Where a server's file systems meet. A step of ours there would remove directories of the server."""

    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(MOUNT)
            inner = hand.shown() / "inner"
            inner.mkdir()
            syscalls.mount(str(inner), source=f"{MOUNT.source}:/exports/home/inner", fstype="ramfs")
            assert list(stage.ours(mountinfo.read(), hand.stage)) == [MOUNT.path]

    asyncio.run(scene())


def test_one_that_could_only_be_read_goes_at_once(playground: str, played: None, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(playground, monkeypatch)

    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(READ_ONLY)
            server.falls_silent()
            hand.engine.set_wanted([])
            await hand.engine.until_idle()
            assert server.forced == []

    asyncio.run(scene())


def test_a_mounter_that_has_to_leave_does_not_wait_for_a_silent_server(
    playground: str, played: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked for is looked for by `engine`: no program, and no mount, is left."""
    server = Server(playground, monkeypatch)

    async def scene() -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(MOUNT)
            server.falls_silent()
            await hand.engine.close(within=1)
            await hand.engine.until_idle()
            assert len(server.forced) == 1

    asyncio.run(scene())
