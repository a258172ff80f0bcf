"""FUSE daemons that are dead, stopped, or that hang: nothing that decides may wait for them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable

import pytest

from dynvol.mount import fuse, mountinfo, paths, targets, usage
from dynvol.mount.errors import MountInTheWay
from dynvol.mount.mountinfo import MountTable
from dynvol.mount.probe import Liveness, MountProber
from dynvol.mount.targets import Placement
from dynvol.mount.watch import MountWatcher
from unit.mount.fusedaemon import CONTENT, start_daemon
from unit.mount.namespaces import Namespace, at_most, run_in_child
from unit.mount.test_targets import lay_out, publish, table_lines

pytestmark = pytest.mark.root


def with_daemon(playground: str, *, hangs: bool = False) -> tuple[Placement, Namespace, int]:
    """A published pod whose `data` is served by a daemon in a mount pod's namespace."""
    placement = lay_out(playground)
    publish(placement)
    os.mkdir(f"{placement.workload_dir}/data")
    pod = Namespace.copy()
    pid = start_daemon(pod, f"{placement.workload_dir}/data", source="dynvol-claim-hash", never_answer_statfs=hangs)
    return placement, pod, pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)


def test_a_file_is_read_through_the_target(playground: str) -> None:
    placement, _, pid = with_daemon(playground)
    with open(f"{placement.target}/data/hello", "rb") as file:
        assert file.read() == CONTENT
    kill(pid)
    with pytest.raises(OSError) as raised:
        os.stat(f"{placement.target}/data/hello")
    assert raised.value.errno == errno.ENOTCONN


@pytest.mark.parametrize("fate", [kill, stop], ids=["killed", "stopped"])
def test_publish_unpublish_and_stats_do_not_wait_for_a_daemon(playground: str, fate: Callable[[int], None]) -> None:
    placement, _, pid = with_daemon(playground)
    fate(pid)
    with at_most(5.0):
        assert targets.is_published(mountinfo.read(), placement)
        publish(placement)
        assert usage.usage_of(placement.target).total > 0
        targets.unpublish(placement.target)
        publish(placement)
        targets.unpublish(placement.target)
    assert not os.path.exists(placement.target)
    assert mountinfo.read().at(f"{placement.workload_dir}/data") is not None, "only the view was taken down"


@pytest.mark.parametrize("fate", [kill, stop], ids=["killed", "stopped"])
def test_clearing_takes_a_dead_mount_away_everywhere(playground: str, fate: Callable[[int], None]) -> None:
    placement, pod, pid = with_daemon(playground)
    with Namespace.copy() as container:
        fate(pid)
        with at_most(5.0):
            clearing = fuse.clear_dead(placement.root)
        assert [c.path for c in clearing.cleared] == [f"{placement.workload_dir}/data"]
        assert clearing.left == ()
        for place in (pod, container):
            assert place.run(lambda: [m.path for m in mountinfo.read() if m.is_fuse]) == []
    assert os.listdir(f"{placement.target}/data") == []
    assert targets.is_published(mountinfo.read(), placement)
    assert fuse.clear_dead(placement.root).cleared == ()


def test_a_successor_mounts_at_the_same_place_and_running_containers_read_again(playground: str) -> None:
    placement, pod, pid = with_daemon(playground)
    with Namespace.copy() as container:
        for _ in range(10):
            kill(pid)
            pod.close()
            fuse.clear_dead(placement.root)
            pod = Namespace.copy()
            pid = start_daemon(pod, f"{placement.workload_dir}/data")

            def read() -> bytes:
                with open(f"{placement.target}/data/hello", "rb") as file:
                    return file.read()

            assert container.run(read) == CONTENT
            assert len(mountinfo.read().stack(f"{placement.target}/data")) == 1
            assert len(mountinfo.read().stack(placement.target)) == 1


def test_a_question_that_hangs_ends_when_the_connection_is_aborted(playground: str) -> None:
    placement, pod, _ = with_daemon(playground, hangs=True)
    mount = mountinfo.read().at(f"{placement.workload_dir}/data")
    assert mount is not None

    def ask(ready: Callable[[], None]) -> None:
        ready()
        os.statvfs(f"{placement.workload_dir}/data")

    asking = pod.start(ask)
    os.kill(asking, signal.SIGKILL)
    with at_most(5.0):
        assert fuse.abort_connection(mount.minor)
        os.waitpid(asking, 0)


def test_there_is_no_connection_of_an_unknown_number() -> None:
    assert not fuse.abort_connection(999_999)


def test_mounts_inside_a_dead_mount_go_with_it(playground: str) -> None:
    """Their paths lead through the dead one, so they cannot be unmounted one by one."""
    placement, pod, pid = with_daemon(playground)
    inner = f"{placement.workload_dir}/data/hello"
    with open(f"{playground}/inner", "w") as file:
        file.write("inner")

    def bind() -> None:
        subprocess.run(["/bin/mount", "--bind", f"{playground}/inner", inner], check=True)

    pod.run(bind)
    assert mountinfo.read().at(f"{placement.target}/data/hello") is not None
    stop(pid)
    with at_most(5.0):
        targets.unpublish(placement.target)
        assert [c.path for c in fuse.clear_dead(placement.root).cleared] == [f"{placement.workload_dir}/data"]
    assert not any(m.is_fuse or m.path == inner for m in mountinfo.read())
    assert targets.release_root(placement.root).left == ()


def test_directories_are_not_made_inside_a_foreign_mount(playground: str) -> None:
    placement, _, pid = with_daemon(playground)
    stop(pid)
    with at_most(5.0):
        with pytest.raises(MountInTheWay, match="dynvol-claim-hash"):
            paths.make_directory_below(placement.workload_dir, "data/sub")
        removal = paths.remove_empty_directories_below(placement.root, "pod/data/sub")
        assert [o.path for o in removal.left] == [f"{placement.workload_dir}/data"]
        assert paths.remove_empty_tree(placement.root).removed == ()


def test_usage_is_not_asked_of_a_foreign_mount_on_the_target(playground: str) -> None:
    place = f"{playground}/target"
    os.mkdir(place)
    with Namespace.copy() as here:
        pid = start_daemon(here, place)
        stop(pid)

        def ask() -> None:
            with pytest.raises(MountInTheWay):
                usage.usage_of(place)

        with at_most(5.0):
            here.run(ask)


def test_a_probe_tells_alive_from_dead_from_stuck(playground: str) -> None:
    placement, _, pid = with_daemon(playground)

    async def verdicts() -> list[Liveness]:
        mount = mountinfo.read().at(f"{placement.workload_dir}/data")
        assert mount is not None
        async with MountProber(deadline=0.3) as prober:
            alive = await prober.probe(mount)
            stop(pid)
            stuck = await prober.probe(mount)
            kill(pid)
            dead = await prober.probe(mount)
            assert "Transport endpoint is not connected" in dead.detail
            return [alive.liveness, stuck.liveness, dead.liveness]

    assert asyncio.run(verdicts()) == [Liveness.ALIVE, Liveness.STUCK, Liveness.DEAD]


def test_a_probe_that_no_signal_ends_is_not_doubled(playground: str) -> None:
    placement, _, _ = with_daemon(playground, hangs=True)

    def children() -> int:
        return sum(1 for name in os.listdir("/proc") if name.isdigit() and _parent(int(name)) == os.getpid() and _is_stat(name))

    async def verdicts() -> None:
        mount, view = (mountinfo.read().at(f"{place}/data") for place in (placement.workload_dir, placement.target))
        assert mount is not None and view is not None
        async with MountProber(deadline=0.2) as prober:
            first = await asyncio.gather(*(prober.probe(mount) for _ in range(5)))
            assert {v.liveness for v in first} == {Liveness.STUCK}
            assert children() == 1 and prober.stuck == (mount.path,)
            with at_most(5.0):
                again = await prober.probe(view)
            assert again.liveness is Liveness.STUCK and "hangs already" in again.detail
            assert children() == 1
            fuse.abort_connection(mount.minor)
            async with asyncio.timeout(2):
                while prober.stuck:  # noqa: ASYNC110 - the loop has to turn, and nothing announces it
                    await asyncio.sleep(0)
            assert (await prober.probe(mount)).liveness is Liveness.DEAD
            assert children() == 0

    asyncio.run(verdicts())


def test_more_stuck_probes_than_the_limit_are_not_started(playground: str) -> None:
    placement, _, _ = with_daemon(playground, hangs=True)

    async def verdicts() -> None:
        table = mountinfo.read()
        mount, other = table.at(f"{placement.workload_dir}/data"), table.at(placement.target)
        assert mount is not None and other is not None
        async with MountProber(deadline=0.1, limit=1) as prober:
            assert (await prober.probe(mount)).liveness is Liveness.STUCK
            assert (await prober.probe(other)).liveness is Liveness.UNKNOWN
            fuse.abort_connection(mount.minor)

    asyncio.run(verdicts())


def test_the_watcher_sees_a_daemon_come_and_its_mount_go(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    os.mkdir(f"{placement.workload_dir}/data")

    def served(table: MountTable) -> bool:
        mount = table.at(f"{placement.target}/data")
        return mount is not None and mount.source == "tiny"

    async def watch() -> None:
        async with MountWatcher() as watcher:
            with Namespace.copy() as pod:
                pid = await asyncio.to_thread(start_daemon, pod, f"{placement.workload_dir}/data")
                await watcher.wait_for(served, timeout=5)
                stop(pid)
                with at_most(5.0):
                    await asyncio.to_thread(fuse.clear_dead, placement.root)
                    await watcher.wait_for(lambda table: not served(table), timeout=5)

    asyncio.run(watch())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_real_client_that_dies_is_cleared(playground: str, number: signal.Signals) -> None:
    rclone = shutil.which("rclone", path="/usr/bin:/usr/local/bin")
    if rclone is None:
        pytest.skip("needs rclone")
    placement = lay_out(playground)
    publish(placement)
    idle = table_lines()
    os.mkdir(f"{placement.workload_dir}/data")
    os.mkdir(f"{playground}/source")
    with open(f"{playground}/source/file", "w") as file:
        file.write("x")
    command = [rclone, "mount", f"{playground}/source", f"{placement.workload_dir}/data", "--allow-other", "--config", ""]

    def client(ready: Callable[[], None]) -> None:
        ready()
        os.execve(command[0], command, {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"})

    async def wait() -> None:
        async with MountWatcher() as watcher:
            await watcher.wait_for(lambda table: table.at(f"{placement.target}/data") is not None, timeout=20)

    with Namespace.copy() as pod:
        pid = pod.start(client)
        asyncio.run(wait())
        assert run_in_child(lambda: os.listdir(f"{placement.target}/data")) == ["file"]
        os.kill(pid, number)
        os.waitpid(pid, os.WUNTRACED)
        with at_most(5.0):
            publish(placement)
            assert len(fuse.clear_dead(placement.root).cleared) == 1
    assert table_lines() == idle
    assert run_in_child(lambda: os.listdir(f"{placement.target}/data")) == []


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return -1


def _is_stat(pid: str) -> bool:
    with open(f"/proc/{pid}/comm") as comm:
        return comm.read().strip() == "stat"
