"""The service with real clients, a real S3 server, and callers on its socket."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import stat
from pathlib import Path

import msgspec
import pytest
from grpclib.exceptions import GRPCError

from dynvol.app import mountclient
from dynvol.mount import mountinfo
from dynvol.service.client import connected
from dynvol.service.proto.dynvol.mounter import v1 as wire
from dynvol.service.proto.dynvol.mounter.v1 import Phase
from unit.csi.independent import IndependentClient, make_stubs
from unit.mounter.stagehand import in_thread
from unit.mounter.storage import SECRET_KEY

from .desk import KEYS, PROMPT, Desk, code_of, play


@pytest.mark.root
def test_mount_answers_when_the_mount_can_be_used_and_unmount_when_all_is_in_the_storage(playground: str) -> None:
    async def life(desk: Desk) -> None:
        told = await desk.mount(desk.request("/deep/data", mounter="rclone"))
        assert (told.path, told.phase, told.reason) == ("/deep/data", Phase.MOUNTED, "")
        assert await in_thread((desk.shown("deep/data") / "hello").read_text) == "hello from a\n"
        content = os.urandom(1 << 20)
        await in_thread(lambda: (desk.shown("deep/data") / "new").write_bytes(content))
        await desk.unmount("deep/data/")
        assert (desk.storage.directory / "bucket-a" / "new").read_bytes() == content
        assert os.listdir(desk.hand.stage.root) == []
        assert await desk.all() == {}

    play(playground, life)


@pytest.mark.root
def test_asking_again_changes_nothing_and_something_else_is_refused(playground: str) -> None:
    async def life(desk: Desk) -> None:
        await desk.mount(desk.request())
        device = mountinfo.read().at(str(desk.shown()))
        await desk.mount(desk.request())
        assert mountinfo.read().at(str(desk.shown())) == device
        assert await code_of(desk.mount(desk.request(mounter="rclone"))) == "ALREADY_EXISTS"
        assert await code_of(desk.mount(desk.request("/data/below"))) == "ALREADY_EXISTS"
        assert await code_of(desk.unmount("/other")) == "NOT_FOUND"
        assert await code_of(desk.mount(desk.request("/other", umask="rwx"))) == "INVALID_ARGUMENT"
        assert await code_of(desk.mount(desk.request("/../other"))) == "INVALID_ARGUMENT"
        assert await desk.all() == {"/data": (Phase.MOUNTED, "")}

    play(playground, life)


@pytest.mark.root
@pytest.mark.parametrize("client", ["s3fs", "rclone"])
def test_a_mount_that_fails_says_why_and_leaves_nothing(playground: str, client: str) -> None:
    async def life(desk: Desk) -> None:
        wrong = {**KEYS, "secret-access-key": "wrong-secret-which-is-long"}
        assert await code_of(desk.mount(desk.request(bucket="nowhere", mounter=client))) == "NOT_FOUND"
        assert await code_of(desk.mount(desk.request(sent=wrong, mounter=client))) == "PERMISSION_DENIED"
        assert await code_of(desk.mount(desk.request(endpoint="http://127.0.0.1:1", mounter=client))) == "UNAVAILABLE"
        assert await desk.all() == {}
        assert os.listdir(desk.hand.stage.root) == os.listdir(desk.hand.stage.sent_credentials) == []
        assert os.listdir(desk.hand.stage.cache) == []
        assert msgspec.json.decode(desk.records.read_bytes())["mounts"] == []

    play(playground, life)


@pytest.mark.root
def test_a_mount_outlives_its_caller_and_is_joined_by_the_next(playground: str) -> None:
    async def life(desk: Desk) -> None:
        desk.storage.pause()
        given_up = asyncio.create_task(desk.mount(desk.request()))
        await desk.until({"/data": (Phase.MOUNTING, "")})
        given_up.cancel()
        assert await code_of(desk.mount(desk.request(), timeout=0.3)) == "DEADLINE_EXCEEDED"
        assert await desk.all() == {"/data": (Phase.MOUNTING, "")}
        await desk.hand.until_true(lambda: bool(desk.hand.tools.children._running))
        client = [child.pid for child in desk.hand.tools.children._running.values()]
        joined = asyncio.create_task(desk.mount(desk.request()))
        await asyncio.sleep(0)
        desk.storage.resume()
        assert (await joined).restarts == 0
        assert [child.pid for child in desk.hand.tools.children._running.values()] == client

    play(playground, life, timing=msgspec.structs.replace(PROMPT, slow=10))


@pytest.mark.root
def test_several_callers_at_once_are_safe(playground: str) -> None:
    async def life(desk: Desk) -> None:
        async def ask(at: str, *, prefix: str = "") -> str:
            async with connected(desk.address) as mounter:
                try:
                    answer = await mounter.mount(desk.request(at, prefix=prefix), timeout=30)
                except GRPCError as error:
                    return error.status.name
                assert answer.mount is not None and answer.mount.phase is Phase.MOUNTED
                return "OK"

        same = [ask("/same") for _ in range(4)]
        others = [ask(f"/other-{number}") for number in range(3)]
        rivals = [ask("/rival", prefix="a"), ask("/rival", prefix="b"), ask("/rival/below")]
        outcomes = await asyncio.gather(*same, *others, *rivals)
        assert outcomes[:7] == ["OK"] * 7
        assert outcomes[7:].count("OK") == 1
        assert set(outcomes[7:]) <= {"OK", "ALREADY_EXISTS", "ABORTED"}
        assert len(desk.hand.tools.children._running) == 5
        leaving = [desk.unmount(path) for path in await desk.all()] + [desk.unmount("/same") for _ in range(3)]
        assert await asyncio.gather(*leaving) == [None] * len(leaving)
        assert not desk.hand.tools.children._running

    play(playground, life)


@pytest.mark.root
def test_a_mount_that_hangs_can_be_called_off(playground: str) -> None:
    async def life(desk: Desk) -> None:
        desk.storage.pause()
        hanging = asyncio.create_task(code_of(desk.mount(desk.request())))
        await desk.until({"/data": (Phase.MOUNTING, "")})
        await desk.unmount()
        assert await hanging == "ABORTED"
        assert await desk.all() == {}
        desk.storage.resume()
        await desk.mount(desk.request())

    play(playground, life, timing=msgspec.structs.replace(PROMPT, slow=10))


@pytest.mark.root
def test_an_unmount_that_cannot_flush_goes_on_without_its_caller_and_nothing_takes_its_place_meanwhile(playground: str) -> None:
    async def life(desk: Desk) -> None:
        await _leave_data_behind(desk)
        assert await code_of(desk.unmount(timeout=0.5)) == "DEADLINE_EXCEEDED"
        await desk.until({"/data": (Phase.UNMOUNTING, "UnflushedData")})
        assert await code_of(desk.mount(desk.request())) == "ABORTED"
        assert not desk.shown().exists()
        desk.storage.resume()
        await desk.unmount()
        assert (desk.storage.directory / "bucket-a" / "new").read_text() == "precious"

    play(playground, life)


@pytest.mark.root
def test_a_watch_tells_the_present_state_then_every_change(playground: str) -> None:
    async def life(desk: Desk) -> None:
        await desk.mount(desk.request("/first"))
        told: list[object] = []
        async with connected(desk.address) as mounter:
            watch = mounter.watch()
            async for event in watch:
                told.append(event.present.path if event.present else event.gone or "synced")
                match event:
                    case wire.WatchResponse(synced=wire.Synced()):
                        going = asyncio.create_task(desk.mount(desk.request("/second")))
                    case wire.WatchResponse(present=wire.Mount(path="/second", phase=Phase.MOUNTED)):
                        await going
                        going = asyncio.create_task(desk.unmount("/first"))  # type: ignore[arg-type]
                    case wire.WatchResponse(gone="/first"):
                        break
            await going
        assert told[:3] == ["/first", "synced", "/second"]
        assert "/first" in told[3:-1], "it was told that it is being unmounted"
        assert told[-1] == "/first"

    play(playground, life)


@pytest.mark.root
def test_the_command_line_shows_the_present_state_then_changes(playground: str) -> None:
    async def life(desk: Desk) -> None:
        await desk.mount(desk.request())
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            watching = asyncio.create_task(asyncio.to_thread(mountclient.mounts, socket=desk.address, watch=True, output="json"))
            await desk.hand.until_true(lambda: "synced" in shown.getvalue())
            await desk.unmount()
            await desk.hand.until_true(lambda: "gone" in shown.getvalue())
            desk.mounts.close()
            assert await watching == 1
        first, synced, *changes, last = [msgspec.json.decode(line) for line in shown.getvalue().splitlines()]
        assert (first["present"]["path"], first["present"]["phase"], synced) == ("/data", "Mounted", {"synced": True})
        assert {change["present"]["phase"] for change in changes} <= {"Unmounting"}
        assert last == {"gone": "/data"}

    play(playground, life)


@pytest.mark.root
def test_any_grpc_client_can_call_it(playground: str) -> None:
    async def life(desk: Desk) -> None:
        stubs = Path(playground, "stubs")
        await in_thread(stubs.mkdir)
        await asyncio.to_thread(make_stubs, stubs)
        async with IndependentClient(Path(playground, "m.sock"), stubs=stubs) as client:
            wish = {"path": "/data", "provider": "s3", "parameters": {"bucket": "bucket-a", "endpoint": desk.storage.url}}
            mounted = await client.call("dynvol.mounter.v1.Mounter/Mount", wish, seconds=40)
            assert (mounted.code, mounted.response["mount"]["phase"]) == ("OK", "PHASE_MOUNTED")
            listed = await client.call("dynvol.mounter.v1.Mounter/List")
            assert [mount["path"] for mount in listed.response["mounts"]] == ["/data"]
            absent = await client.call("dynvol.mounter.v1.Mounter/Unmount", {"path": "/other"})
            assert (absent.code, absent.details) == ("NOT_FOUND", "nothing is mounted at /other")
            watching = asyncio.create_task(client.call("dynvol.mounter.v1.Mounter/Watch", seconds=40))
            assert (await client.call("dynvol.mounter.v1.Mounter/Unmount", {"path": "/data"}, seconds=40)).code == "OK"
            desk.mounts.close()
            assert (await watching).code == "UNAVAILABLE"

    play(playground, life)


@pytest.mark.root
def test_what_was_wanted_is_mounted_again_in_the_next_life(playground: str) -> None:
    async def first(desk: Desk) -> None:
        await desk.mount(desk.request("/held"))
        await desk.mount(desk.request("/sent", sent=KEYS))
        await desk.mount(desk.request("/gone"))
        await desk.unmount("/gone")

    async def second(desk: Desk) -> None:
        await desk.until({"/held": (Phase.MOUNTED, ""), "/sent": (Phase.FAILED, "CredentialsLost")})
        assert await in_thread((desk.shown("held") / "hello").read_text) == "hello from a\n"
        await desk.mount(desk.request("/sent", sent=KEYS))
        assert await in_thread((desk.shown("sent") / "hello").read_text) == "hello from a\n"

    play(playground, first, second)


@pytest.mark.root
def test_an_unmount_that_the_end_cut_off_never_happened_and_its_data_is_kept(playground: str) -> None:
    async def first(desk: Desk) -> None:
        await _leave_data_behind(desk)
        cut_off = asyncio.create_task(code_of(desk.unmount()))
        await desk.until({"/data": (Phase.UNMOUNTING, "UnflushedData")})
        desk.mounts.close()
        assert await cut_off == "UNAVAILABLE"

    async def second(desk: Desk) -> None:
        desk.storage.resume()
        await desk.until({"/data": (Phase.MOUNTED, "")})
        await desk.unmount()
        assert (desk.storage.directory / "bucket-a" / "new").read_text() == "precious"
        assert os.listdir(desk.hand.stage.cache) == []

    play(playground, first, second)


@pytest.mark.root
def test_callers_are_told_when_the_service_ends(playground: str) -> None:
    async def life(desk: Desk) -> None:
        desk.storage.pause()
        mounting = asyncio.create_task(code_of(desk.mount(desk.request())))
        await desk.until({"/data": (Phase.MOUNTING, "")})
        watching = asyncio.create_task(code_of(_drain(desk)))
        await asyncio.sleep(0)
        desk.mounts.close()
        assert (await mounting, await watching) == ("UNAVAILABLE", "UNAVAILABLE")
        assert await code_of(desk.mount(desk.request("/late"))) == "UNAVAILABLE"
        assert await code_of(desk.unmount()) == "UNAVAILABLE"
        desk.storage.resume()

    play(playground, life, timing=msgspec.structs.replace(PROMPT, slow=10))


@pytest.mark.root
def test_credentials_that_were_sent_are_in_memory_only_for_root_only_and_for_as_long_as_the_mount(playground: str) -> None:
    async def life(desk: Desk) -> None:
        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(repr(vars(record)))  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.DEBUG)
        await desk.mount(desk.request(sent={**KEYS, "ca.crt": ""}))
        directory = Path(desk.hand.stage.sent_credentials)
        (kept,) = os.listdir(directory)
        assert {stat.filemode((directory / kept / key).stat().st_mode) for key in KEYS} == {"-rw-------"}
        memory = mountinfo.read().containing(str(directory))
        assert memory is not None and (memory.path, memory.fstype) == (desk.hand.stage.run, "tmpfs")
        holding = {file for file in _files(playground) if SECRET_KEY.encode() in file.read_bytes()}
        assert {file.relative_to(playground).parts[0] for file in holding} == {"run", "secret"}
        assert SECRET_KEY not in repr(await desk.mounter.list())
        assert any("MountRequest" in line for line in said)
        assert not any(SECRET_KEY in line for line in said)
        await desk.mount(desk.request(sent=KEYS))
        assert sorted(os.listdir(directory / kept)) == sorted(KEYS)
        await desk.unmount()
        assert os.listdir(directory) == []

    play(playground, life)


@pytest.mark.root
def test_credentials_that_do_not_work_do_not_take_over_from_those_that_do(playground: str) -> None:
    async def life(desk: Desk) -> None:
        await desk.mount(desk.request(sent=KEYS))
        wrong = {**KEYS, "secret-access-key": "wrong-secret-which-is-long"}
        await desk.mount(desk.request(sent=wrong))
        await desk.until({"/data": (Phase.MOUNTED, "CredentialsPending")})
        assert await in_thread((desk.shown() / "hello").read_text) == "hello from a\n"
        await desk.mount(desk.request(sent=KEYS))
        await desk.until({"/data": (Phase.MOUNTED, "")})

    play(playground, life)


@pytest.mark.root
def test_what_cannot_be_recorded_is_not_mounted(playground: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def life(desk: Desk) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            assert await code_of(desk.mount(desk.request(sent=KEYS))) == "RESOURCE_EXHAUSTED"
        assert await desk.all() == {}
        assert os.listdir(desk.hand.stage.sent_credentials) == []
        await desk.mount(desk.request())
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            assert await code_of(desk.unmount()) == "RESOURCE_EXHAUSTED"
        await desk.until({"/data": (Phase.MOUNTED, "")})

    play(playground, life)


async def _leave_data_behind(desk: Desk) -> None:
    """A file that is closed and cannot be uploaded, since the storage answers no more."""
    await desk.mount(desk.request(mounter="rclone"))
    await in_thread(lambda: os.listdir(desk.shown()))
    desk.storage.pause()
    await in_thread(lambda: (desk.shown() / "new").write_text("precious"))


async def _drain(desk: Desk) -> None:
    async for _ in desk.mounter.watch():
        pass


def _files(directory: str) -> list[Path]:
    return [path for path in Path(directory).rglob("*") if path.is_file() and "xvols" not in path.parts and "mnt" not in path.parts]
