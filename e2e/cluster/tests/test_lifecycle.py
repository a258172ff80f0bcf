"""The cluster as a whole: it survives the death of its parts, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from e2e.cluster import cgroups, mounts
from e2e.cluster.lifecycle import PROJECT, LocalCluster
from e2e.cluster.processes import Process, spawn
from e2e.cluster.tests.conftest import Space
from e2e.cluster.tests.test_pods import FOREVER, eventually, only, shell


async def container_of(space: Space, pod: str) -> str:
    return str((await space.pod(pod))["status"]["containerStatuses"][0]["containerID"])


async def test_containers_outlive_their_kubelet_and_are_adopted(space: Space) -> None:
    await space.run("p", only(shell("echo one; " + FOREVER), nodeName="node-1"))
    await space.wait("p")
    before = await container_of(space, "p")
    await space.cluster.kill("kubelet/node-1")
    assert space.cluster.process("kubelet/node-1") is None
    await space.cluster.start("kubelet/node-1")
    await eventually(lambda: _answers(space, "p"))
    after = await space.pod("p")
    assert await container_of(space, "p") == before
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    await space.kubectl("delete", "pod", "p", "--wait", "--timeout=60s")


async def _answers(space: Space, pod: str) -> bool:
    return "yes" in await space.kubectl("exec", pod, "--", "echo", "yes", check=False)


async def test_what_happened_while_the_kubelet_was_down_is_caught_up_with(space: Space) -> None:
    await space.run("goes", only(shell(FOREVER), nodeName="node-1"))
    await space.run("crashes", only(shell("sleep 1; exit 5"), nodeName="node-1", restartPolicy="Never"))
    await space.wait("goes")
    await space.wait("crashes", "jsonpath={.status.phase}=Running")
    await space.cluster.kill("kubelet/node-1")
    await space.kubectl("delete", "pod", "goes", "--wait=false")
    await space.cluster.start("kubelet/node-1")
    await space.kubectl("wait", "pod/goes", "--for=delete", "--timeout=60s")
    await space.wait("crashes", "jsonpath={.status.phase}=Failed")
    assert (await space.pod("crashes"))["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 5


async def test_pods_live_on_without_an_api_server_and_it_comes_back_with_its_objects(space: Space) -> None:
    await space.run("p", only(shell(FOREVER)))
    await space.wait("p")
    before = await container_of(space, "p")
    await space.cluster.kill("apiserver")
    await space.cluster.start("apiserver")
    await space.cluster.wait_ready()
    assert await container_of(space, "p") == before
    await space.run("q", only(shell(FOREVER)))
    await space.wait("q")


async def test_a_node_that_is_killed_takes_its_containers_along_and_runs_them_anew(space: Space) -> None:
    await space.run("p", only(shell(FOREVER), nodeName="node-2"))
    await space.wait("p")
    await space.cluster.restart("node-2")

    async def runs_again() -> bool:
        status = (await space.pod("p"))["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == 1 and status["ready"])

    await eventually(runs_again)


async def test_a_nodes_disk_can_be_full_and_outlives_the_node(space: Space) -> None:
    """`test_nothing_of_a_node_can_be_seen_from_outside` says the rest: it is not in the machine's mount table."""
    inside, outside = space.on_node("node-1", "/var/lib/dynamic/kept"), space.cluster.disk("node-1") / "kept"
    with pytest.raises(OSError, match="No space left"):
        inside.write_bytes(bytes(17 << 20))
    inside.write_text("kept")
    await space.cluster.kill("node-1")
    assert outside.read_text() == "kept"
    await space.cluster.start("node-1")
    assert space.on_node("node-1", "/var/lib/dynamic/kept").read_text() == "kept"
    outside.unlink()


async def test_nothing_of_a_node_can_be_seen_from_outside(space: Space) -> None:
    await space.run("p", only(shell(FOREVER)))
    await space.wait("p")
    assert mounts.below(space.cluster.state) == []
    assert not Path("/var/lib/kubelet/pods").exists()  # noqa: ASYNC240


async def test_a_cluster_that_went_down_leaves_no_process_mount_cgroup_or_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with LocalCluster(state) as cluster:
        async with cluster.api() as api:
            pod = {"metadata": {"name": "p"}, "spec": only(shell("trap '' TERM; " + FOREVER)), "kind": "Pod"}
            await eventually(lambda: _has_account(cluster))
            await api.create("/api/v1/namespaces/default/pods", {"apiVersion": "v1", **pod})
        await cluster.kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=60s")
        inside = cgroups.processes(cluster.cgroup)
        parts = [process for process in cluster.parts().values() if process]
        assert inside
    assert not any(process.alive for process in parts)
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)  # noqa: ASYNC240
    assert cgroups.left(cluster.cgroup) == []
    assert mounts.below(tmp_path) == []
    assert not state.exists()


async def _has_account(cluster: LocalCluster) -> bool:
    return "default" in await cluster.kubectl("get", "serviceaccounts", "-o", "name", check=False)


async def test_up_survives_a_state_folder_whose_processes_were_all_killed(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "state")
    try:
        await cluster.up()
        for part in ("node-1", "apiserver", "controllers"):
            await cluster.kill(part)
        await cluster.up()
        assert "node-1" in await cluster.kubectl("get", "nodes", "-o", "name")
    finally:
        await cluster.down()


async def test_down_without_a_cluster_is_no_error(tmp_path: Path) -> None:
    await LocalCluster(tmp_path / "none").down()


async def test_a_process_is_known_by_its_start_time_too(tmp_path: Path) -> None:
    process = spawn(["sleep", "60"], log=tmp_path / "log")
    impostor = Process(process.pid, process.start - 1)
    assert not impostor.alive
    impostor.send(signal.SIGKILL)
    assert process.alive
    await process.end(grace=0)
    assert not process.alive


@pytest.mark.parametrize("graceful", [True, False])
async def test_a_process_that_will_not_end_is_killed(tmp_path: Path, graceful: bool) -> None:
    process = spawn(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], log=tmp_path / "log")
    begin = asyncio.get_running_loop().time()
    await process.end(grace=0.3 if graceful else 0)
    assert not process.alive
    assert asyncio.get_running_loop().time() - begin < 3


async def test_a_cluster_goes_down_when_the_process_it_was_for_is_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys\n"
        "from e2e.cluster.lifecycle import PROJECT, LocalCluster\n"
        "asyncio.run(LocalCluster(pathlib.Path(sys.argv[1])).up(guarded=True))\n"
        "print('up', flush=True)\n"
        "input()\n"
    )
    state = tmp_path / "state"
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(state)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=PROJECT,
    )
    assert owner.stdout and await owner.stdout.readline() == b"up\n"
    parts = [process for process in LocalCluster(state).parts().values() if process]
    owner.kill()
    await owner.wait()
    await eventually(lambda: _is_gone(state))
    assert parts
    assert not any(process.alive for process in parts)


async def _is_gone(place: Path) -> bool:
    return not place.exists()  # noqa: ASYNC240
