"""The provider nfs against what it is for: the kernel's own client, and a real server. What needs neither is in `test_nfs`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dynvol.api.mounts import UNFLUSHED, MountReport, Phase, WantedMount
from dynvol.mount import mountinfo, syscalls
from dynvol.mount.syscalls import MountFlag
from dynvol.mounter import stage

from .nfsserver import NFSServer, nfs_server, with_client, with_server
from .stagehand import WATCHFUL, Hand, engine, in_thread, prepare, wanted_of

pytestmark = [pytest.mark.root, with_client, with_server]

PATIENT = msgspec.structs.replace(WATCHFUL, start=60)


@contextlib.contextmanager
def serving(playground: str, *, minors: tuple[int, ...] = (0, 1, 2)) -> Iterator[tuple[NFSServer, Path]]:
    """A server that is up, and its directory `/home`, in which there is a file."""
    with nfs_server(playground, minors=minors) as server:
        home = server.export("home")
        (home / "readme").write_text("from the server")
        server.up()
        yield server, home


def wanted(server: NFSServer, path: str = "/home", *, spec: str = "1", read_only: bool = False, **parameters: str) -> WantedMount:
    return wanted_of("nfs", {"server": server.address, "path": path, **parameters}, spec=spec, read_only=read_only)


@contextlib.contextmanager
def program(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """What a user runs. It may hang with its server; the test's processes end after the server was made to answer."""
    pipe = subprocess.PIPE
    running = subprocess.Popen(argv, env={"PATH": os.defpath}, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield running
    finally:
        running.kill()


def _failed(spec: str, found: list[MountReport]) -> bool:
    return (found[0].phase, found[0].spec_hash) == (Phase.FAILED, spec)


def options(hand: Hand) -> set[str]:
    (shown,) = mountinfo.read().stack(str(hand.shown()))
    return set(shown.super_options.split(","))


@pytest.mark.parametrize("version", ["4.0", "4.1"])
def test_what_is_written_through_it_is_on_the_server(playground: str, version: str) -> None:
    async def scene(server: NFSServer, home: Path) -> None:
        mount = wanted(server, version=version)
        async with engine(prepare(playground)) as hand:
            await hand.mounted(mount)
            (shown,) = mountinfo.read().stack(str(hand.shown()))
            assert (shown.fstype, shown.name) == ("nfs4", mount.source)
            assert {f"vers={version}", "hard", "nosharecache"} <= options(hand)
            assert await in_thread((hand.shown() / "readme").read_text) == "from the server"
            await in_thread(lambda: (hand.shown() / "made").write_text("by a program"))
            assert (home / "made").read_text() == "by a program"

    with serving(playground) as (server, home):
        asyncio.run(scene(server, home))


@pytest.mark.parametrize(("minors", "asked", "taken"), [((0, 1, 2), "", "4.1"), ((0,), "", "4.0"), ((0, 1, 2), "4.2", "4.2")])
def test_the_newest_version_that_is_to_be_trusted_is_taken_unless_one_is_named(
    playground: str, minors: tuple[int, ...], asked: str, taken: str
) -> None:
    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted(server, version=asked))
            assert f"vers={taken}" in options(hand)

    with serving(playground, minors=minors) as (server, _):
        asyncio.run(scene(server))


def test_a_version_that_the_server_does_not_speak_is_told_by_its_reason(playground: str) -> None:
    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground)) as hand:
            assert (await hand.failed(wanted(server, version="4.2"))).reason == "VersionNotSupported"

    with serving(playground, minors=(0, 1)) as (server, _):
        asyncio.run(scene(server))


def test_what_cannot_be_mounted_is_told_by_its_reason(playground: str) -> None:
    expected = {
        "/none": "PathNotFound",
        "/home/none": "PathNotFound",
        "/home/readme": "PathNotFound",
        "/refused": "PathNotFound",
        "/home/way-out": "PathIsLink",
        "/home/way-out/below": "PathIsLink",
        "/home/inside": "PathIsLink",
    }

    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground)) as hand:
            for number, (path, reason) in enumerate(expected.items()):
                hand.engine.set_wanted([wanted(server, path, spec=str(number))])
                (report,) = await hand.until(functools.partial(_failed, str(number)))
                assert (path, report.reason) == (path, reason)
            server.down()
            hand.engine.set_wanted([wanted(server, spec="down")])
            await hand.until(lambda found: found[0].reason == "EndpointUnreachable")

    with nfs_server(playground) as server:
        home, other = server.export("home"), server.export("other")
        server.export("refused", access="None")
        (home / "readme").touch()
        (home / "directory").mkdir()
        (other / "below").mkdir()
        (home / "inside").symlink_to("directory")
        (home / "way-out").symlink_to("../other")
        server.up()
        asyncio.run(scene(server))


def test_a_path_is_the_same_however_many_slashes_it_has(playground: str) -> None:
    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted(server, "//home///a directory/"))

    with serving(playground) as (server, home):
        (home / "a directory").mkdir()
        asyncio.run(scene(server))


def test_a_server_that_accepts_connections_and_is_silent_is_told_from_a_slow_client(playground: str) -> None:
    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground), timing=PATIENT) as hand:
            with server.silent():
                hand.engine.set_wanted([wanted(server)])
                await hand.until(lambda found: found[0].reason == "EndpointTimeout")
            await hand.until(lambda found: found[0].phase is Phase.MOUNTED, within=60)

    with serving(playground) as (server, _):
        asyncio.run(scene(server))


def test_what_is_read_only_cannot_be_written_and_does_not_wait_for_ever(playground: str) -> None:
    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted(server, read_only=True, claimOptions="timeo=10,retrans=0,noac"))
            assert "softerr" in options(hand)
            with pytest.raises(OSError, match="Read-only file system"):
                await in_thread((hand.shown() / "file").touch)
            server.down()
            with program("cat", str(hand.shown() / "readme")) as reader:
                assert await in_thread(lambda: reader.wait(60)) == 1
                assert reader.stderr is not None
                assert "Connection timed out" in reader.stderr.read()
            server.up()

    with serving(playground) as (server, _):
        asyncio.run(scene(server))


@pytest.mark.parametrize("host", ["[::1]", "many"])
def test_a_server_is_reached_by_any_of_its_addresses(playground: str, host: str) -> None:
    """Of `many`, those that are listed first refuse connections."""
    hosts = Path(playground, "hosts")
    hosts.write_text("::2 many\n127.0.0.9 many\n127.0.0.1 many\n")

    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted_of("nfs", {"server": f"{host}:{server.port}", "path": "/home"}))

    with nfs_server(playground, listens="127.0.0.1" if host == "many" else "::1") as server:
        server.export("home")
        server.up()
        syscalls.mount("/etc/hosts", source=str(hosts), flags=MountFlag.BIND)
        asyncio.run(scene(server))


def test_what_is_written_and_still_open_is_on_the_server_when_the_mount_has_gone(playground: str) -> None:
    async def scene(server: NFSServer, home: Path) -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted(server))
            file = (hand.shown() / "file").open("w")
            try:
                file.write("in memory only")
                file.flush()
                hand.engine.set_wanted([])
                await hand.until(lambda found: not found or found[0].reason == "FilesOpen")
                assert (home / "file").read_text() == "in memory only"
                await hand.engine.until_idle()
                assert not hand.shown().exists()
                file.write(", and later")
            finally:
                await in_thread(file.close)
            assert (home / "file").read_text() == "in memory only, and later"

    with serving(playground) as (server, home):
        asyncio.run(scene(server, home))


def test_a_program_that_is_killed_takes_no_file_with_it_that_is_open(playground: str) -> None:
    async def scene(server: NFSServer, home: Path) -> None:
        mount = wanted(server)
        async with engine(prepare(playground)) as hand:
            await hand.mounted(mount)
            with (hand.shown() / "file").open("w") as file:
                file.write("before")
                os.kill(hand.client(mount), signal.SIGKILL)
                await hand.until(lambda found: found[0].restarts == 1 and found[0].phase is Phase.MOUNTED)
                file.write(" and after")
            assert (home / "file").read_text() == "before and after"
            assert len(mountinfo.read().stack(str(hand.shown()))) == 1
            assert await in_thread((hand.shown() / "file").read_text) == "before and after"

    with serving(playground) as (server, home):
        asyncio.run(scene(server, home))


def test_what_a_killed_mounter_left_is_taken_away_by_the_next(playground: str) -> None:
    place = prepare(playground)

    async def first_life(server: NFSServer) -> None:
        async with engine(place) as hand:
            await hand.mounted(wanted(server))
            (hand.shown() / "file").write_text("written")
            os._exit(0)

    async def second_life(server: NFSServer) -> None:
        async with engine(place) as hand:
            assert not stage.ours(mountinfo.read(), place)
            await hand.mounted(wanted(server))
            assert await in_thread((hand.shown() / "file").read_text) == "written"

    with serving(playground) as (server, _):
        pid = os.fork()
        if pid == 0:
            asyncio.run(first_life(server))
        os.waitpid(pid, 0)
        assert stage.ours(mountinfo.read(), place)
        asyncio.run(second_life(server))


def test_a_silent_server_holds_up_its_reader_and_nobody_else(playground: str) -> None:
    async def scene(server: NFSServer, other: NFSServer) -> None:
        second = msgspec.structs.replace(wanted_of("nfs", {"server": other.address, "path": "/b"}, at="b"), claim_uid="b")
        async with engine(prepare(playground), timing=WATCHFUL) as hand:
            await hand.mounted(wanted(server, claimOptions="noac"), second)
            with server.silent(), program("cat", str(hand.shown() / "readme")) as reader:
                await hand.until(lambda found: {(r.claim_uid, r.reason) for r in found} == {("a", "EndpointTimeout"), ("b", "")})
                await in_thread(lambda: (hand.shown("b") / "file").write_text("goes on"))
                assert reader.poll() is None
                server.resume()
                assert (await in_thread(reader.communicate), reader.returncode) == (("from the server", ""), 0)
            found = await hand.until(lambda found: {r.phase for r in found} == {Phase.MOUNTED}, within=60)
            assert [report.restarts for report in found] == [0, 0]

    with serving(playground) as (server, _), nfs_server(f"{playground}/other") as other:
        other.export("b")
        other.up()
        asyncio.run(scene(server, other))


def test_a_mount_that_goes_waits_for_its_server(playground: str) -> None:
    async def scene(server: NFSServer, home: Path) -> None:
        mount = wanted(server)
        async with engine(prepare(playground), timing=WATCHFUL) as hand:
            await hand.mounted(mount)
            await in_thread(lambda: (hand.shown() / "file").write_text("precious"))
            served_by = hand.client(mount)
            with server.silent():
                hand.engine.set_wanted([])
                (report,) = await hand.until(lambda found: found[0].reason == UNFLUSHED)
                await asyncio.sleep(2 * WATCHFUL.stuck)
                assert report.phase is Phase.UNMOUNTING
                assert mountinfo.read().at(str(hand.shown())) is None, "it is gone from the pod at once"
                assert hand.client(mount) == served_by, "and the file system is kept"
            await hand.engine.until_idle()
            assert (home / "file").read_text() == "precious"

    with serving(playground) as (server, home):
        asyncio.run(scene(server, home))


def test_one_that_could_only_be_read_goes_without_its_server(playground: str) -> None:
    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted(server, read_only=True))
            await in_thread((hand.shown() / "readme").read_text)
            with server.silent():
                hand.engine.set_wanted([])
                await asyncio.wait_for(hand.engine.until_idle(), 60)
                assert not hand.shown().exists()

    with serving(playground) as (server, _):
        asyncio.run(scene(server))


def test_one_that_a_program_still_uses_goes_by_force_and_the_program_ends(playground: str) -> None:
    """Told that its write failed, it closes the file, which asks the server again."""

    async def scene(server: NFSServer, home: Path) -> None:
        async with engine(prepare(playground), timing=WATCHFUL) as hand:
            await hand.mounted(wanted(server))
            with server.silent(), program("dd", f"of={hand.shown()}/file", "conv=fsync", "status=none") as writer:
                server.resume()
                await hand.until_true((home / "file").exists)
                server.pause()
                asking = asyncio.ensure_future(in_thread(lambda: writer.communicate("lost")))
                hand.engine.set_wanted([])
                await hand.until(lambda found: bool(found) and found[0].reason == UNFLUSHED)
                await hand.engine.until_idle()
                await asyncio.wait((asking,), timeout=60)
                assert writer.returncode == 1

    with serving(playground) as (server, home):
        asyncio.run(scene(server, home))


def test_a_mounter_that_has_to_leave_does_not_wait_for_a_silent_server(playground: str) -> None:
    """What is looked for is looked for by `engine`: no program, and no mount, is left."""

    async def scene(server: NFSServer) -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted(server))
            with server.silent():
                await hand.engine.close(within=1)
                await hand.engine.until_idle()

    with serving(playground) as (server, _):
        asyncio.run(scene(server))


def test_a_server_that_starts_anew_loses_nothing_and_programs_go_on(playground: str) -> None:
    async def scene(server: NFSServer, home: Path) -> None:
        async with engine(prepare(playground)) as hand:
            await hand.mounted(wanted(server))
            with program(
                "sh", "-c", 'exec >"$1"; echo before; sync "$1"; read go; echo after', "sh", f"{hand.shown()}/file"
            ) as writer:
                await hand.until_true(lambda: (home / "file").exists() and (home / "file").read_text() == "before\n")
                server.down()
                assert writer.stdin is not None
                writer.stdin.write("go\n")
                writer.stdin.flush()
                server.up()
                assert await in_thread(lambda: writer.wait(100)) == 0
            assert (home / "file").read_text() == "before\nafter\n"
            assert [report.restarts for report in hand.engine.reports()] == [0]

    with serving(playground) as (server, home):
        asyncio.run(scene(server, home))


def test_file_systems_of_the_server_that_meet_below_a_mount_can_be_entered_and_hold_up_no_removal(playground: str) -> None:
    """The kernel mounts the inner one when a program first enters it, in the namespace of that program, where it stays."""

    async def scene(server: NFSServer, inner: Path) -> None:
        mount = wanted(server)
        async with engine(prepare(playground)) as hand:
            await hand.mounted(mount)
            below = f"{hand.shown()}/inner"
            await in_thread(lambda: Path(below, "made").write_text("inside"))
            assert [(m.path, m.name) for m in mountinfo.read().below(str(hand.shown()))] == [(below, mount.source)]
            hand.engine.set_wanted([])
            await hand.engine.until_idle()
            assert not hand.shown().exists()
            assert (inner / "made").read_text() == "inside"

    with nfs_server(playground) as server:
        home = server.export("home")
        inner = home / "inner"
        inner.mkdir()
        syscalls.mount(str(inner), source="inner", fstype="tmpfs")
        server.export("home/inner")
        server.up()
        asyncio.run(scene(server, inner))
