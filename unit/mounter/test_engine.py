"""The engine with real clients, a real S3 server and the real kernel."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.mounts import Phase
from dynvol.mount import caches, mountinfo, propagation, syscalls
from dynvol.mount.syscalls import MountFlag
from dynvol.mounter import stage
from dynvol.mounter.tools import Timing
from dynvol.observe import logs
from unit.mount import fusedaemon
from unit.mount.namespaces import Namespace, run_in_child

from .authority import Authority
from .stagehand import POD, QUICK, WATCHFUL, Hand, engine, in_thread, prepare, publish, wanted
from .storage import ACCESS_KEY, SECRET_KEY, Storage, free_port, serving

CLIENTS = ["s3fs", "rclone"]
Story = Callable[[Hand, Storage], Awaitable[None]]


def play(
    playground: str,
    story: Story,
    *,
    secret: dict[str, str] | None = None,
    shared: bool = False,
    for_pods: bool = True,
    timing: Timing = QUICK,
    memory: int | None = None,
    table_late_by: float = 0.005,
) -> None:
    """Run a story with an engine and a storage that has `bucket-a` with the object `hello`."""

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.make_bucket("bucket-a", hello="hello from a\n")
            place = prepare(playground, secret=secret, for_pods=for_pods)
            if shared:
                propagation.bind(place.root, place.root, recursive=True)
                propagation.make_shared(place.root)
            async with engine(place, timing=timing, memory=memory, table_late_by=table_late_by) as hand:
                await story(hand, storage)

    asyncio.run(scene())


def container_of(hand: Hand) -> Namespace:
    """Where mounts below the root arrive, and none leave."""

    def receive_only() -> None:
        propagation.make_slave(hand.stage.root, recursive=True)

    return Namespace.copy(prepare=receive_only)


def hold_open(path: Path, ready: Callable[[], None]) -> None:
    with path.open() as file:
        file.read(1)
        ready()
        signal.pause()


@pytest.mark.root
def test_nothing_shows_in_a_directory_that_is_not_published_and_all_does_once_it_is(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        syscalls.unmount(f"{hand.stage.root}/{POD}")
        hand.engine.set_wanted([wanted(storage)])
        (report,) = await hand.until(lambda found: [r.reason for r in found] == ["PodDirectoryMissing"])
        assert report.phase is Phase.FAILED
        assert not hand.shown().exists()
        publish(hand.stage)
        await hand.mounted(wanted(storage))
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_wanted_becomes_readable_and_goes_when_it_is_not(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage, mounter=client)
        await hand.mounted(mount)
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert not hand.shown().exists()
        assert hand.shown().parent.exists()
        assert os.listdir(hand.stage.cache) == []

    play(playground, story)


@pytest.mark.root
def test_clients_divide_what_the_class_grants(playground: str) -> None:
    """Each is told at its start how much memory it may take; the second one, that the first has its part already."""

    async def story(hand: Hand, storage: Storage) -> None:
        one, two = (wanted(storage, claim, at=claim, mounter="rclone") for claim in ("one", "two"))
        await hand.mounted(one)
        first = _told_memory(hand.client(one))
        await hand.mounted(one, two)
        second = _told_memory(hand.client(two))
        assert second < first == _told_memory(hand.client(one))
        assert first + second < 128 << 20
        await hand.mounted(one)
        await hand.mounted(one, two)
        assert _told_memory(hand.client(two)) == second

    play(playground, story, memory=128 << 20)


def _told_memory(pid: int) -> int:
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return int(dict(line.split("=", 1) for line in environment if line)["GOMEMLIMIT"])


@pytest.mark.root
def test_claims_on_one_bucket_have_one_client_which_serves_to_the_last_of_them(playground: str) -> None:
    """Neither notices that another comes or goes, or that they die and come back together."""

    async def story(hand: Hand, storage: Storage) -> None:
        one, two, other = (
            msgspec.structs.replace(wanted(storage, claim, at=claim, mounter="rclone"), client=client)
            for claim, client in (("one", "c"), ("two", "c"), ("other", "d"))
        )
        await hand.mounted(one, other)
        first = hand.client(one)
        await hand.mounted(one, two, other)
        assert hand.client(two) == first != hand.client(other)
        assert caches.recorded(hand.stage.cache)[0].owners == {one.key, two.key}
        await in_thread(lambda: (hand.shown("one") / "new").write_text("by one"))
        assert await in_thread((hand.shown("two") / "new").read_text) == "by one"

        hand.engine.set_wanted([two, other])
        await hand.until(lambda found: [r.claim_uid for r in found] == ["two", "other"])
        assert not hand.shown("one").exists()
        assert await in_thread((hand.shown("two") / "hello").read_text) == "hello from a\n"
        assert hand.client(two) == first

        await hand.mounted(one, two, other)
        os.kill(first, signal.SIGKILL)
        await hand.until(lambda found: any(r.phase is not Phase.MOUNTED for r in found))
        await hand.until(lambda found: all(r.phase is Phase.MOUNTED for r in found))
        for claim in ("one", "two"):
            assert await in_thread((hand.shown(claim) / "hello").read_text) == "hello from a\n"
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert os.listdir(hand.stage.cache) == []

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_file_that_was_closed_is_in_the_bucket_when_the_mount_has_gone(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        content = os.urandom(3 << 20)
        await in_thread(lambda: (hand.shown() / "new").write_bytes(content))
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert (storage.directory / "bucket-a" / "new").read_bytes() == content

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_is_killed_is_started_again_and_the_others_stay(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        storage.make_bucket("bucket-b", hello="hello from b\n")
        first, second = wanted(storage, mounter=client), wanted(storage, "b", at="other", bucket="bucket-b", mounter=client)
        await hand.mounted(first, second)
        victim, bystander = hand.client(first), hand.client(second)
        os.kill(victim, signal.SIGKILL)
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 1), (Phase.MOUNTED, 0)])
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"
        assert await in_thread((hand.shown("other") / "hello").read_text) == "hello from b\n"
        assert hand.client(second) == bystander

    play(playground, story)


@pytest.mark.root
def test_a_client_that_is_killed_comes_back_also_before_the_table_shows_that_its_mount_went(playground: str) -> None:
    """On a node with no time to spare, and mounts by the hundred, the table is read late. It has the dead client's mount then, at
    the place of the next one's: taken for that, it would show for ever."""

    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage)
        await hand.mounted(mount)
        os.kill(hand.client(mount), signal.SIGKILL)
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 1)])
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    play(playground, story, table_late_by=0.4)


@pytest.mark.root
def test_a_client_that_comes_up_after_another_attempt_was_asked_for_shows(playground: str) -> None:
    """Credentials change while one is being started that has them already: no other attempt follows, so this is the one."""

    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage)
        await hand.mounted(mount)
        storage.pause()
        first = hand.client(mount)
        os.kill(first, signal.SIGKILL)
        await hand.until(lambda found: [r.phase for r in found] == [Phase.FAILED])
        await hand.until_true(lambda: hand.has_client(mount) and hand.client(mount) != first)
        hand.engine.refresh_credentials()
        storage.resume()
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 1)])
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_read_only_is_enforced_by_the_kernel(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client, read_only=True))
        with pytest.raises(OSError, match="Read-only"):
            await in_thread((hand.shown() / "new").touch)

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_owner_and_mode_follow_the_parameters(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client, uid="1000", gid="2000", umask="0027"))
        found = await in_thread((hand.shown() / "hello").stat)
        assert isinstance(found, os.stat_result)
        assert (found.st_uid, found.st_gid, found.st_mode & 0o077) == (1000, 2000, 0o50 if client == "s3fs" else 0o40)
        written = await asyncio.to_thread(run_in_child, lambda: _write_as(hand.shown() / "mine", uid=1000, gid=2000))
        refused = await asyncio.to_thread(run_in_child, lambda: _write_as(hand.shown() / "theirs", uid=1001, gid=2001))
        assert (written, refused) == (True, False)

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_prefix_is_all_that_shows_even_if_nothing_is_there_yet(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client, prefix="/team/data, really/"))
        assert await in_thread(lambda: os.listdir(hand.shown())) == []
        await in_thread(lambda: (hand.shown() / "new").write_text("text"))
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert (storage.directory / "bucket-a/team/data, really/new").read_text() == "text"

    play(playground, story)


@pytest.mark.root
def test_a_changed_spec_is_mounted_in_place_of_the_old_one(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        storage.make_bucket("bucket-b", hello="hello from b\n")
        await hand.mounted(wanted(storage))
        changed = wanted(storage, spec="2", bucket="bucket-b")
        hand.engine.set_wanted([changed])
        await hand.until(lambda found: [(r.phase, r.spec_hash) for r in found] == [(Phase.MOUNTED, "2")])
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from b\n"

    play(playground, story)


@pytest.mark.root
def test_a_new_mountpoint_of_the_same_claim_moves_the_mount(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, at="one/deep"))
        await hand.mounted(wanted(storage, at="two", spec="2"))
        assert await in_thread((hand.shown("two") / "hello").read_text) == "hello from a\n"
        await hand.until(lambda found: not hand.shown("one").exists())

    play(playground, story)


@pytest.mark.root
def test_several_pods_share_one_client(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        first = wanted(storage)
        second = msgspec.structs.replace(first, pod_uid="other", path="other/data")
        os.mkdir(f"{hand.stage.root}/other")
        publish(hand.stage, "other")
        await hand.mounted(first, second)
        assert len(hand.tools.children._running) == 1
        await hand.mounted(second)
        assert await in_thread(Path(hand.stage.root, "other/data/hello").read_text) == "hello from a\n"
        await hand.until_true(lambda: not hand.shown().exists())

    play(playground, story)


@pytest.mark.root
def test_ten_mounts_at_once(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mounts = [wanted(storage, f"c{i}", at=f"deep/er/{i}", bucket=f"bucket-{i}") for i in range(10)]
        for i in range(10):
            storage.make_bucket(f"bucket-{i}", name=str(i))
        await hand.mounted(*mounts)
        for i in range(10):
            assert await in_thread((hand.shown(f"deep/er/{i}") / "name").read_text) == str(i)
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert os.listdir(hand.stage.root + "/" + POD) == []

    play(playground, story)


@pytest.mark.root
def test_the_older_of_two_claims_for_one_place_wins(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        older, younger = wanted(storage, "a"), wanted(storage, "b", at="data/below")
        hand.engine.set_wanted([older, younger])
        found = await hand.until(lambda found: [r.phase for r in found] == [Phase.MOUNTED, Phase.CONFLICT])
        assert found[1].reason == "MountpointTaken"
        assert "test/a" in found[1].message
        await hand.mounted(younger)

    play(playground, story)


@pytest.mark.root
def test_the_same_mount_may_come_back_while_it_is_going(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage)
        for _ in range(3):
            await hand.mounted(mount)
            hand.engine.set_wanted([])
        await hand.mounted(mount)
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_secrets_are_in_memory_while_a_client_needs_them_and_in_no_log(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        secrets = f"{hand.stage.run}/secrets"
        ((directory, _, (name,)),) = [entry for entry in os.walk(secrets) if entry[2]]
        file = f"{directory}/{name}"
        assert SECRET_KEY in await asyncio.to_thread(Path(file).read_text)
        assert (os.stat(file).st_mode & 0o777, os.stat(directory).st_mode & 0o777) == (0o600, 0o700)
        memory = mountinfo.read().containing(file)
        assert memory is not None
        assert memory.fstype == "tmpfs"
        assert SECRET_KEY not in logs.cover(f"the client says {SECRET_KEY}")
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert os.listdir(secrets) == []

    play(playground, story)


# --- what goes wrong


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_bucket_that_does_not_exist_is_said_and_is_mounted_once_it_does(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage, bucket="no-such-bucket", mounter=client)
        found = await hand.failed(mount)
        assert found.reason == "NoSuchBucket"
        assert 'bucket "no-such-bucket" does not exist' in found.message
        assert not hand.shown().exists()
        storage.make_bucket("no-such-bucket", hello="now")
        await hand.mounted(mount)

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_wrong_secret_is_said_and_the_right_one_is_taken_up(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage, mounter=client)
        found = await hand.failed(mount)
        assert found.reason == "AccessDenied"
        assert "secret-access-key" in found.message
        await asyncio.to_thread(Path(hand.stage.credentials, names.SECRET_KEY).write_text, SECRET_KEY)
        await hand.mounted(mount)

    play(playground, story, secret={names.ACCESS_KEY: ACCESS_KEY, names.SECRET_KEY: "wrong"})


@pytest.mark.root
def test_a_secret_without_a_key_names_the_key(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        found = await hand.failed(wanted(storage))
        assert found.reason == "SecretKeyMissing"
        assert "`secret-access-key`" in found.message

    play(playground, story, secret={names.ACCESS_KEY: ACCESS_KEY})


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_an_endpoint_that_refuses_or_does_not_resolve_is_said(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        refusing = await hand.failed_soon(wanted(storage, endpoint=f"http://127.0.0.1:{free_port()}", mounter=client))
        assert refusing.reason == "EndpointUnreachable"
        unknown = await hand.failed_soon(wanted(storage, spec="2", endpoint="http://no-such-host.invalid", mounter=client))
        assert unknown.reason == "EndpointNotFound"

    play(playground, story)


@pytest.mark.root
def test_an_endpoint_that_does_not_speak_tls_is_said(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        found = await hand.failed_soon(wanted(storage, endpoint=f"https://127.0.0.1:{storage.port}"))
        assert found.reason == "CertificateError"

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_is_trusted_once_the_secret_holds_its_authority(playground: str, client: str) -> None:
    async def scene() -> None:
        authority = Authority(Path(playground, "tls"))
        with serving(Path(playground, "s3"), authority=authority) as storage:
            storage.make_bucket("bucket-a", hello="hello from a\n")
            async with engine(prepare(playground)) as hand:
                mount = wanted(storage, mounter=client)
                found = await hand.failed_soon(mount)
                assert found.reason == "CertificateError"
                assert "`ca.crt`" in found.message
                shutil.copy(authority.ca, f"{hand.stage.credentials}/ca.crt")
                hand.engine.set_wanted([])
                await hand.until(lambda found: not found)
                await hand.mounted(mount)
                assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    asyncio.run(scene())


@pytest.mark.root
def test_parameters_that_no_client_may_see_are_refused(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        found = await hand.failed(wanted(storage, options="passwd_file=/etc/shadow"))
        assert found.reason == "InvalidParameters"
        assert "not allowed for s3fs" in found.message

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_is_stopped_neither_holds_up_the_loop_nor_its_own_end(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        storage.make_bucket("bucket-b")
        stopped, other = wanted(storage, mounter=client), wanted(storage, "b", at="other", bucket="bucket-b", mounter=client)
        await hand.mounted(stopped, other)
        os.kill(hand.client(stopped), signal.SIGSTOP)
        await hand.mounted(other)
        assert not hand.shown().exists()
        await hand.until(lambda found: len(hand.tools.children._running) == 1, within=10)

    play(playground, story)


@pytest.mark.root
def test_a_client_that_answers_nothing_is_reported_then_killed_and_started_again(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage)
        await hand.mounted(mount)
        os.kill(hand.client(mount), signal.SIGSTOP)
        await hand.until(lambda found: [(r.phase, r.reason) for r in found] == [(Phase.FAILED, "ClientStuck")])
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 1)])
        assert await in_thread((hand.shown() / "hello").read_text) == "hello from a\n"

    play(playground, story, timing=WATCHFUL)


@pytest.mark.root
def test_a_client_that_answers_again_is_as_good_as_before(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage)
        await hand.mounted(mount)
        os.kill(hand.client(mount), signal.SIGSTOP)
        await hand.until(lambda found: [r.reason for r in found] == ["ClientStuck"])
        os.kill(hand.client(mount), signal.SIGCONT)
        await hand.until(lambda found: [(r.phase, r.restarts) for r in found] == [(Phase.MOUNTED, 0)])

    play(playground, story, timing=WATCHFUL)


@pytest.mark.root
def test_a_fault_of_one_session_is_reported_and_heals(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        storage.make_bucket("bucket-b")
        broken, other = wanted(storage), wanted(storage, "b", at="other", bucket="bucket-b")
        in_the_way = Path(hand.stage.cache, broken.source)
        await asyncio.to_thread(in_the_way.write_text, "no directory")
        hand.engine.set_wanted([broken, other])
        found = await hand.until(lambda found: [r.phase for r in found] == [Phase.FAILED, Phase.MOUNTED])
        assert found[0].reason == "MounterFailed"
        await asyncio.to_thread(in_the_way.unlink)
        await hand.mounted(broken, other)

    play(playground, story)


@pytest.mark.root
def test_a_fault_that_nobody_foresaw_takes_no_other_mount_with_it(playground: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As parameters of one claim may bring it to light, that claim must not be able to end the mounter."""
    usual = stage.write_secrets

    def write_secrets(directory: str, files: Mapping[str, bytes]) -> None:
        if "dynvol-a-" in directory:
            raise UnicodeError("nobody thought of this")
        usual(directory, files)

    monkeypatch.setattr(stage, "write_secrets", write_secrets)

    async def story(hand: Hand, storage: Storage) -> None:
        storage.make_bucket("bucket-b")
        broken, other = wanted(storage), wanted(storage, "b", at="other", bucket="bucket-b")
        hand.engine.set_wanted([broken, other])
        found = await hand.until(lambda found: [r.phase for r in found] == [Phase.FAILED, Phase.MOUNTED])
        assert found[0].reason == "MounterFailed"
        monkeypatch.undo()
        await hand.mounted(broken, other)

    play(playground, story)


@pytest.mark.root
def test_a_pod_whose_directory_is_gone_gets_nothing_and_leaves_nothing(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        syscalls.unmount(str(hand.shown().parent))
        hand.shown().parent.rmdir()
        found = await hand.failed(wanted(storage))
        assert found.reason == "PodDirectoryMissing"
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert os.listdir(hand.stage.root) == []

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_container_sees_mounts_come_and_go_and_keeps_what_it_has_open(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        with container_of(hand) as container:
            await hand.mounted(wanted(storage, mounter=client))
            held = hand.shown() / "hello"
            assert await in_thread(lambda: container.run(held.read_text)) == "hello from a\n"
            program = await asyncio.to_thread(container.start, lambda ready: hold_open(held, ready))
            hand.engine.set_wanted([])
            await hand.until(lambda found: [r.reason for r in found] == ["FilesOpen"])
            assert await in_thread(lambda: container.run(lambda: os.listdir(hand.stage.root))) == [POD]
            assert await in_thread(lambda: container.run(held.exists)) is False
            os.kill(program, signal.SIGKILL)
            await asyncio.to_thread(os.waitpid, program, 0)
            await hand.until(lambda found: not found, within=2)

    play(playground, story, shared=True)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_a_file_that_is_open_stays_usable_for_a_while_and_does_not_hold_the_mount_for_ever(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        file = await asyncio.to_thread((hand.shown() / "hello").open)
        hand.engine.set_wanted([])
        await hand.until(lambda found: [r.reason for r in found] == ["FilesOpen"])
        assert not hand.shown().exists()
        assert await in_thread(file.read) == "hello from a\n"
        await hand.until(lambda found: not found)
        with pytest.raises(OSError, match="not connected"):
            file.close()

    play(playground, story)


@pytest.mark.root
@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_written_through_an_open_file_after_the_mount_has_gone_still_arrives(playground: str, client: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        await hand.mounted(wanted(storage, mounter=client))
        file = await asyncio.to_thread((hand.shown() / "log").open, "w")
        await in_thread(lambda: file.write("begun\n"))
        hand.engine.set_wanted([])
        await hand.until(lambda found: not hand.shown().exists())
        await in_thread(lambda: file.write("ended\n"))
        await in_thread(file.close)
        await hand.until(lambda found: not found)
        assert (storage.directory / "bucket-a/log").read_text() == "begun\nended\n"

    play(playground, story)


@pytest.mark.root
def test_what_cannot_be_uploaded_is_reported_and_kept_and_arrives_later(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage, mounter="rclone")
        await hand.mounted(mount)
        await in_thread(lambda: os.listdir(hand.shown()))
        storage.pause()
        write = asyncio.create_task(in_thread(lambda: (hand.shown() / "precious").write_text("data")))
        await hand.until_true(lambda: Path(hand.stage.cache, mount.source, "0/vfs/remote/bucket-a/precious").exists())
        await write
        os.kill(hand.client(mount), signal.SIGKILL)
        hand.engine.set_wanted([])
        (found,) = await hand.until(lambda found: [r.reason for r in found] == ["UnflushedData"])
        assert found.phase is Phase.UNMOUNTING
        storage.resume()
        await hand.until(lambda found: not found)
        assert (storage.directory / "bucket-a/precious").read_text() == "data"
        assert os.listdir(hand.stage.cache) == []

    play(playground, story)


@pytest.mark.root
def test_what_an_earlier_life_left_is_cleared_before_anything_else(playground: str) -> None:
    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.make_bucket("bucket-a", hello="hello from a\n")
            place = prepare(playground)
            os.makedirs(f"{place.root}/{POD}/data/x")
            os.makedirs(f"{place.root}/{POD}/foreign")
            for path, source in ((f"{POD}/data/x", "dynvol-old-1"), (f"{POD}/foreign", "someone-elses")):
                fusedaemon.mount(f"{place.root}/{path}", source=source)
            async with engine(place) as hand:
                assert [m.source for m in mountinfo.read().below(place.root) if m.is_fuse] == ["someone-elses"]
                await hand.mounted(wanted(storage))

    asyncio.run(scene())


@pytest.mark.root
def test_a_mountpoint_that_holds_something_else_is_reported_not_touched(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        hand.shown().symlink_to("/etc")
        found = await hand.failed(wanted(storage))
        assert found.reason == "MountpointInTheWay"
        assert "symbolic link" in found.message
        hand.shown().unlink()
        await hand.mounted(wanted(storage))

    play(playground, story)


def _write_as(path: Path, *, uid: int, gid: int) -> bool:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    try:
        path.write_text("text")
    except PermissionError:
        return False
    return True


@pytest.mark.root
def test_a_mount_that_is_no_pods_appears_right_below_the_root(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = msgspec.structs.replace(wanted(storage), pod_uid="", path="deep/data")
        shown = Path(hand.stage.root, "deep/data")
        await hand.mounted(mount)
        assert await in_thread((shown / "hello").read_text) == "hello from a\n"
        changed = msgspec.structs.replace(mount, spec_hash="2")
        hand.engine.set_wanted([changed])
        found = await hand.until(lambda found: [r.phase for r in found if r.spec_hash == "2"] == [Phase.MOUNTED])
        assert [(r.path, r.pod_uid) for r in found] == [("deep/data", "")]
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        assert "deep" not in os.listdir(hand.stage.root)

    play(playground, story, for_pods=False)


@pytest.mark.root
def test_a_retry_waits_for_no_pause(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage)
        await hand.failed(mount)
        give_credentials(Path(hand.stage.credentials))
        hand.engine.retry(mount.source)
        assert [r.phase for r in hand.engine.reports()] == [Phase.MOUNTING]
        await hand.until(lambda found: [r.phase for r in found] != [Phase.MOUNTING])
        assert [r.phase for r in hand.engine.reports()] == [Phase.MOUNTED]

    play(playground, story, secret={}, timing=msgspec.structs.replace(QUICK, lasting_retry=100, last_retry=100))


@pytest.mark.root
def test_the_failure_of_an_attempt_from_before_a_retry_is_not_told(playground: str) -> None:
    async def story(hand: Hand, storage: Storage) -> None:
        mount = wanted(storage)
        await hand.failed(mount)
        storage.pause()
        await hand.until_true(lambda: bool(hand.tools.children._running))
        give_credentials(Path(hand.stage.credentials))
        told = hand.engine.version
        hand.engine.retry(mount.source)
        storage.resume()
        while (phase := hand.engine.reports()[0].phase) is not Phase.MOUNTED:
            assert phase is Phase.MOUNTING
            told = await hand.engine.newer_than(told)

    play(playground, story, secret={names.ACCESS_KEY: ACCESS_KEY, names.SECRET_KEY: "wrong-secret-which-is-long"})


def give_credentials(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / names.ACCESS_KEY).write_text(ACCESS_KEY)
    (folder / names.SECRET_KEY).write_text(SECRET_KEY)


@pytest.mark.root
@pytest.mark.parametrize("room", ["64k", "4k"])
def test_a_disk_without_room_is_named_and_what_is_wanted_comes_when_there_is_some(playground: str, room: str) -> None:
    """In 64 KiB the client is started and refuses; in 4 KiB, which one file takes, not even that can be written down."""

    async def story(hand: Hand, storage: Storage) -> None:
        syscalls.mount(hand.stage.cache, source="small", fstype="tmpfs", data=f"size={room}")
        if room == "4k":
            await asyncio.to_thread(Path(hand.stage.cache, "filler").write_bytes, bytes(4096))
        hand.engine.set_wanted([wanted(storage)])
        await hand.until(lambda found: [(r.phase, r.reason) for r in found] == [(Phase.FAILED, "DiskFull")])
        syscalls.mount(hand.stage.cache, source="small", fstype="tmpfs", flags=MountFlag.REMOUNT, data="size=1g")
        await hand.mounted(wanted(storage))
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        syscalls.unmount(hand.stage.cache, lazily=True)

    play(playground, story)


@pytest.mark.root
def test_writes_fail_while_the_cache_has_no_room_and_work_again_when_it_has(playground: str) -> None:
    def write(directory: Path) -> None:
        (directory / os.urandom(4).hex()).write_bytes(bytes(100_000))

    def fill(file: Path) -> None:
        with pytest.raises(OSError), file.open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    async def story(hand: Hand, storage: Storage) -> None:
        syscalls.mount(hand.stage.cache, source="small", fstype="tmpfs", data="size=2m")
        await hand.mounted(wanted(storage, mounter="rclone"))
        filler = Path(hand.stage.cache, "filler")
        await in_thread(lambda: fill(filler))
        with pytest.raises(OSError):
            await in_thread(lambda: write(hand.shown()))
        await in_thread(filler.unlink)
        await in_thread(lambda: write(hand.shown()))
        hand.engine.set_wanted([])
        await hand.until(lambda found: not found)
        syscalls.unmount(hand.stage.cache)

    play(playground, story)
