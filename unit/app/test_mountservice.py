"""The process of the mounter on its own, from its start to SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dynvol.api import names
from dynvol.app.mountservice import Settings, serve
from dynvol.mount import mountinfo
from dynvol.rpc.listener import Access
from dynvol.service.client import CallFailed, connected
from dynvol.service.proto.dynvol.mounter import v1 as wire
from dynvol.service.proto.dynvol.mounter.v1 import Phase
from unit.mounter.stagehand import QUICK, in_thread, prepare
from unit.mounter.storage import SECRET_KEY, Storage, serving

Story = Callable[[wire.MounterStub, Storage], Awaitable[None]]


def play(playground: str, story: Story) -> None:
    """A process' whole life, in which the story happens."""
    socket = f"unix://{playground}/m.sock"
    place = prepare(playground, for_pods=False)
    access = Access(0o660, 0, 1234)
    settings = Settings(stage=place, state=f"{playground}/state", socket=Path(playground, "m.sock"), access=access, timing=QUICK)

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.make_bucket("bucket-a", hello="hello from a\n")
            living = asyncio.create_task(serve(settings))
            await _listening(socket)
            async with connected(socket) as mounter:
                await story(mounter, storage)
            os.kill(os.getpid(), signal.SIGTERM)
            await living

    asyncio.run(scene())
    assert not os.path.exists(settings.socket)
    assert not [m for m in mountinfo.read() if m.source.startswith("dynvol-")], "a mount is left"


async def _listening(socket: str) -> None:
    """A process that starts tells no one."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with connected(socket) as mounter:
                    await mounter.list()
                return
            except CallFailed:
                await asyncio.sleep(0.02)


def request(storage: Storage) -> wire.MountRequest:
    return wire.MountRequest(path="/data", provider="s3", parameters={"bucket": "bucket-a", "endpoint": storage.url})


@pytest.mark.root
def test_it_serves_whom_it_is_told_to_and_unmounts_all_when_it_is_asked_to_leave(playground: str) -> None:
    async def story(mounter: wire.MounterStub, storage: Storage) -> None:
        status = await in_thread(Path(playground, "m.sock").stat)
        assert isinstance(status, os.stat_result)
        assert (stat.filemode(status.st_mode), status.st_uid, status.st_gid) == ("srw-rw----", 0, 1234)
        await mounter.mount(request(storage), timeout=30)
        assert await in_thread(Path(playground, "xvols/data/hello").read_text) == "hello from a\n"

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("shared", ["xvols", "state"])
def test_a_second_service_is_turned_away_before_it_takes_anything_from_the_first(playground: str, shared: str) -> None:
    async def story(mounter: wire.MounterStub, storage: Storage) -> None:
        await mounter.mount(request(storage), timeout=30)
        os.mkdir(f"{playground}/other")
        root = f"{playground}/xvols" if shared == "xvols" else f"{playground}/other"
        state = f"{playground}/state" if shared == "state" else f"{playground}/state-2"
        command = [
            sys.executable,
            "-m",
            "dynvol.cli",
            "mounter",
            "serve",
            "--root",
            root,
            "--state",
            state,
            "--run",
            f"{playground}/run-2",
        ]
        second = await asyncio.to_thread(subprocess.run, command, env={}, capture_output=True, text=True)
        # Not by its status: as process 1 of the playground, the first service reaps whoever ends there.
        assert second.stderr == f"dynvol mounter serve: another service works in {playground}/{shared}\n"
        assert await in_thread(Path(playground, "xvols/data/hello").read_text) == "hello from a\n"

    play(playground, story)


@pytest.mark.root
def test_credentials_that_it_holds_may_change(playground: str) -> None:
    async def story(mounter: wire.MounterStub, storage: Storage) -> None:
        async def until(reason: str) -> None:
            async with asyncio.timeout(30):
                async for event in mounter.watch():
                    if event.present is not None and (event.present.phase, event.present.reason) == (Phase.MOUNTED, reason):
                        return

        await mounter.mount(request(storage), timeout=30)
        key = Path(playground, "secret", names.SECRET_KEY)
        await in_thread(lambda: key.write_text("wrong-secret-which-is-long"))
        await until("CredentialsPending")
        await in_thread(lambda: key.write_text(SECRET_KEY))
        await until("")

    play(playground, story)
