"""The whole process: `dynvol mounter` as a program, with a real client, against an API server that is told what to want."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from dynvol.api import names
from dynvol.app.mounter import Forgotten, Settings, serve
from dynvol.mount import caches, mountinfo, syscalls
from dynvol.mounter import feed
from dynvol.mounter.podapi import PodApi, Server
from dynvol.mounter.stage import Stage
from unit.mount import fusedaemon

from .fake_api import NAME, NAMESPACE, FakeApi
from .stagehand import POD, engine, in_thread, prepare, wanted
from .storage import Storage, serving

Story = Callable[["Scene"], Awaitable[None]]


class Scene:
    def __init__(self, api: FakeApi, storage: Storage, place: Stage) -> None:
        self.api = api
        self.storage = storage
        self.place = place
        self.hello = Path(place.root, POD, "data", "hello")

    @property
    def shows(self) -> bool:
        return mountinfo.read().at(f"{self.place.root}/{POD}/data") is not None

    async def until_true(self, condition: Callable[[], bool], *, within: float = 20.0) -> None:
        """For what no event tells here."""
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def mounter(self, *, grace: float = 30.0) -> Iterator[subprocess.Popen[bytes]]:
        place = self.place
        command = [sys.executable, "-m", "dynvol.cli", "mounter", "--root", place.root, "--credentials", place.credentials]
        command += ["--run", place.run, "--cache", place.cache, "--grace", str(grace), "--api-server", self.api.url]
        environment = {"PATH": os.defpath, "POD_NAME": NAME, "POD_NAMESPACE": NAMESPACE, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
            try:
                yield process
            finally:
                process.kill()


def play(playground: str, story: Story) -> None:
    @contextlib.asynccontextmanager
    async def scene() -> AsyncIterator[Scene]:
        with serving(Path(playground, "s3")) as storage:
            storage.make_bucket("bucket-a", hello="hello from a\n")
            async with FakeApi() as api:
                yield Scene(api, storage, prepare(playground))

    async def run() -> None:
        async with scene() as ready:
            await story(ready)
        assert not [m for m in mountinfo.read() if m.source.startswith("dynvol-")], "a mount is left"

    asyncio.run(run())


async def ended(process: subprocess.Popen[bytes], *, within: float = 20.0) -> int:
    return await asyncio.to_thread(process.wait, within)


@pytest.mark.root
def test_asked_to_leave_it_serves_until_nothing_is_wanted(playground: str) -> None:
    async def story(scene: Scene) -> None:
        with scene.mounter() as process:
            await scene.api.want(wanted(scene.storage))
            await scene.api.until_reported("Mounted")
            process.send_signal(signal.SIGTERM)
            await scene.api.want(wanted(scene.storage), wanted(scene.storage, "b", at="other"))
            await scene.api.until_reported("Mounted", "Mounted")
            assert await in_thread(scene.hello.read_text) == "hello from a\n"
            await scene.api.want()
            assert await ended(process) == 0
            assert scene.api.reports == []

    play(playground, story)


@pytest.mark.root
def test_a_mount_that_comes_up_as_it_should_is_reported_with_what_else_there_is_to_say(
    playground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node process sees it in the mount table; and that it was coming, nobody had to be told."""
    monkeypatch.setattr(feed, "_LEISURE", 3600.0)

    async def story(scene: Scene) -> None:
        server = Server.of(scene.api.url, ca_file="", token_file="")
        async with engine(scene.place) as hand, asyncio.TaskGroup() as tasks:
            feeding = feed.Feed(PodApi(server, namespace=NAMESPACE, name=NAME), hand.engine)
            working = [tasks.create_task(work, name="feed") for work in (feeding.follow(), feeding.report())]
            good, bad = wanted(scene.storage), wanted(scene.storage, "b", at="other", bucket="")
            await scene.api.want(good)
            await hand.until(lambda found: [r.phase for r in found] == ["Mounted"])
            assert scene.shows and not scene.api.patches
            await scene.api.want(good, bad)
            await scene.api.until_reported("Mounted", "Failed")
            assert len(scene.api.patches) == 1
            for task in working:
                task.cancel()

    play(playground, story)


@pytest.mark.root
def test_a_mount_that_nobody_was_told_of_goes_when_that_was_made_up_for(playground: str) -> None:
    """Else the claim could be let go with the last sight of it, and its data be still on the way."""

    async def story(scene: Scene) -> None:
        with scene.mounter() as process:
            scene.api.refuse_patches = 2
            await scene.api.want(wanted(scene.storage))
            await scene.until_true(lambda: scene.shows)
            await scene.api.want()
            await scene.until_true(lambda: len(scene.api.patches) == 2)
            assert scene.shows and not scene.api.reports
            await scene.api.until_reported("Unmounting")
            await scene.api.until_reported()
            assert not scene.shows
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0

    play(playground, story)


@pytest.mark.root
def test_a_pod_that_was_deleted_while_its_mounter_was_starting_does_not_stay(playground: str) -> None:
    """Its signal came when there was no one to hear it."""

    async def story(scene: Scene) -> None:
        scene.api.deletion_timestamp = "2026-01-01T00:00:00Z"
        await scene.api.want()
        with scene.mounter(grace=600) as process:
            assert await ended(process) == 0

    play(playground, story)


@pytest.mark.root
def test_asked_to_leave_and_released_it_flushes_and_leaves_at_once(playground: str) -> None:
    async def story(scene: Scene) -> None:
        with scene.mounter() as process:
            await scene.api.want(wanted(scene.storage, mounter="rclone"))
            await scene.api.until_reported("Mounted")
            await in_thread(lambda: scene.hello.with_name("new").write_text("text"))
            process.send_signal(signal.SIGTERM)
            await scene.api.annotate(names.RELEASE_ANNOTATION, "successor follows")
            assert await ended(process) == 0
            assert (scene.storage.directory / "bucket-a/new").read_text() == "text"

    play(playground, story)


@pytest.mark.root
def test_released_it_does_not_stay_for_the_sake_of_open_files(playground: str) -> None:
    async def story(scene: Scene) -> None:
        with scene.mounter(grace=600) as process:
            await scene.api.want(wanted(scene.storage))
            await scene.api.until_reported("Mounted")
            file = await asyncio.to_thread(scene.hello.open)
            process.send_signal(signal.SIGTERM)
            await scene.api.annotate(names.RELEASE_ANNOTATION, "successor follows")
            assert await ended(process, within=15) == 0
            with pytest.raises(OSError, match="not connected"):
                file.close()

    play(playground, story)


@pytest.mark.root
def test_asked_to_leave_a_cluster_without_dynvol_it_does_not_wait_for_orders(playground: str) -> None:
    async def story(scene: Scene) -> None:
        with scene.mounter(grace=600) as process:
            await scene.api.want(wanted(scene.storage))
            await scene.api.until_reported("Mounted")
            shown = str(scene.hello.parent)
            scene.api.knows_us = False
            process.send_signal(signal.SIGTERM)
            assert await ended(process, within=40) == 0
            assert mountinfo.read().at(shown) is None

    play(playground, story)


@pytest.mark.root
def test_started_for_a_pod_that_is_gone_it_touches_nothing_and_stands_in_no_ones_way(playground: str) -> None:
    """As after a deletion by force that kubelet has not heard of: what is mounted, and the caches, are a successor's."""

    async def story(scene: Scene) -> None:
        shown = f"{scene.place.root}/{POD}/data"
        os.mkdir(shown)
        descriptor = fusedaemon.mount(shown, source="dynvol-of-a-successor")
        scene.api.knows_us = False
        with scene.mounter() as forgotten:
            await scene.api.until_denied(3)
            with caches.holding(scene.place.cache):
                assert [m.source for m in mountinfo.read().stack(shown)] == ["dynvol-of-a-successor"]
            forgotten.send_signal(signal.SIGTERM)
            assert await ended(forgotten) == 0
        assert [m.source for m in mountinfo.read().stack(shown)] == ["dynvol-of-a-successor"]
        syscalls.unmount(shown, lazily=True)
        os.close(descriptor)

    play(playground, story)


@pytest.mark.root
def test_forgotten_for_long_it_ends_though_no_one_tells_it_to(playground: str) -> None:
    """Its signal may have come before it listened, and kubelet waits for its end."""

    async def story(scene: Scene) -> None:
        scene.api.knows_us = False
        server = Server.of(scene.api.url, ca_file="", token_file="")
        with pytest.raises(Forgotten):
            await serve(Settings(scene.place, server, namespace=NAMESPACE, pod=NAME, forgotten=0.2))

    play(playground, story)


@pytest.mark.root
def test_superseded_it_flushes_and_leaves_without_touching_what_shows(playground: str) -> None:
    async def story(scene: Scene) -> None:
        with scene.mounter() as process:
            await scene.api.want(wanted(scene.storage, mounter="rclone"))
            await scene.api.until_reported("Mounted")
            await in_thread(lambda: scene.hello.with_name("new").write_text("text"))
            shown = str(scene.hello.parent)
            scene.api.uid = "a successor"
            await scene.api.annotate("any", "change")
            assert await ended(process) == 0
            assert (scene.storage.directory / "bucket-a/new").read_text() == "text"
            assert mountinfo.read().at(shown) is not None
            syscalls.unmount(shown, lazily=True)

    play(playground, story)


@pytest.mark.root
def test_beside_an_earlier_mounter_it_waits_until_that_has_ended(playground: str) -> None:
    async def story(scene: Scene) -> None:
        await scene.api.want(wanted(scene.storage))
        with scene.mounter() as earlier:
            await scene.api.until_reported("Mounted")
            shown = mountinfo.read().at(str(scene.hello.parent))
            with scene.mounter() as later:
                await asyncio.sleep(1.5)  # Long enough for it to have done harm.
                assert mountinfo.read().at(str(scene.hello.parent)) == shown
                earlier.kill()
                await ended(earlier)
                await until_readable(scene.hello)
                await scene.api.want()
                later.send_signal(signal.SIGTERM)
                assert await ended(later) == 0

    play(playground, story)


@pytest.mark.root
def test_asked_to_leave_it_is_gone_when_the_grace_period_is(playground: str) -> None:
    async def story(scene: Scene) -> None:
        with scene.mounter(grace=6) as process:
            await scene.api.want(wanted(scene.storage))
            await scene.api.until_reported("Mounted")
            process.send_signal(signal.SIGTERM)
            assert await ended(process, within=6) == 0

    play(playground, story)


@pytest.mark.root
def test_killed_it_takes_its_clients_along_and_its_next_life_mounts_anew(playground: str) -> None:
    async def story(scene: Scene) -> None:
        await scene.api.want(wanted(scene.storage))
        for _ in range(3):
            with scene.mounter() as process:
                await scene.api.until_reported("Mounted")
                # The report may still be the earlier life's: what counts is what can be read.
                await until_readable(scene.hello)
                process.kill()
                await ended(process)
            await until_no_client_runs()
            assert scene.place.root in {os.path.dirname(os.path.dirname(m.path)) for m in mountinfo.read() if m.is_fuse}
        with scene.mounter() as process:
            await until_readable(scene.hello)
            assert len([m for m in mountinfo.read() if m.path == str(scene.hello.parent)]) == 1
            await scene.api.want()
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0

    play(playground, story)


async def until_readable(path: Path) -> None:
    """Through ENOTCONN and a bare directory, as a program in a container would see it."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                await in_thread(path.read_text)
                return
            await asyncio.sleep(0.02)


async def until_no_client_runs() -> None:
    """The kernel kills it together with its parent, but not in the same instant. A zombie has no command line."""
    async with asyncio.timeout(5):
        while [name for name in os.listdir("/proc") if name.isdigit() and _command_line(name).startswith("s3fs")]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _command_line(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def test_it_loads_nothing_that_only_the_other_processes_need() -> None:
    program = """
        import sys
        import dynvol.app.mounter, dynvol.cli, dynvol.mount.providers.s3.s3fs
        heavy = {"aiohttp", "kubernetes_asyncio", "grpclib", "prometheus_client", "cryptography", "h11", "betterproto2", "yaml"}
        assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
