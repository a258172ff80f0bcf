"""Things die; the pod's files come back, in the same container."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from e2e import manifests
from e2e.conftest import World
from e2e.manifests import ROOT


@pytest.fixture
def mounted(world: World) -> tuple[World, str]:
    """A world with one pod that has one bucket, and the pod's name."""
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"
    return world, pod


def restored(world: World, pod: str) -> None:
    world.settles(lambda: world.sees(pod, "/data/readme", "hello"), what="the file is readable again")
    world.settles(lambda: world.phases("data") == {pod: "Mounted"}, what="the claim says so")
    world.ready("data")
    assert world.restarts(pod) == 0
    mounts: list[int] = []

    def mounted_once() -> bool:
        mounts.append(world.kubectl.exec(pod, "cat", "/proc/mounts").out.count(f"{ROOT}/data "))
        return mounts[-1] == 1

    # Not at all, for a moment, where what answered was the dying client's; and never twice.
    world.settles(mounted_once, what="it is mounted once")
    assert max(mounts) == 1


def test_a_fuse_client_that_is_killed_comes_back(mounted: tuple[World, str]) -> None:
    world, pod = mounted
    for _ in range(3):
        assert world.ground.kill("s3fs", pod=world.mount_pods()[0])
        restored(world, pod)


def test_a_mounter_that_is_killed_comes_back(mounted: tuple[World, str]) -> None:
    world, pod = mounted
    assert world.ground.kill("dynvol mounter", pod=world.mount_pods()[0])
    restored(world, pod)
    reasons = {reason for reason, _ in world.kubectl.events("DynamicVolumeClaim", "data")}
    assert "Mounted" in reasons


def test_a_mount_pod_that_is_deleted_is_replaced(mounted: tuple[World, str]) -> None:
    world, pod = mounted
    (before,) = world.kubectl.within("dynvol-system").list(
        "pods", f"--selector={manifests.GROUP}/mount-pod,{manifests.GROUP}/storage-provider-class={world.provider_class}"
    )
    world.kubectl.within("dynvol-system").delete("pod", before["metadata"]["name"])
    world.settles(lambda: world.mount_pods(), what="a successor")
    restored(world, pod)
    after = world.kubectl.within("dynvol-system").get("pod", before["metadata"]["name"])
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


def test_a_mount_pod_that_is_deleted_by_force_is_replaced(mounted: tuple[World, str]) -> None:
    world, pod = mounted
    (name,) = world.mount_pods()
    world.kubectl.within("dynvol-system")("delete", "pod", name, "--grace-period=0", "--force")
    world.settles(lambda: world.mount_pods(), what="a successor")
    restored(world, pod)


def test_files_stay_readable_while_the_node_process_is_dead(mounted: tuple[World, str]) -> None:
    world, pod = mounted
    assert world.ground.kill("dynvol node")
    assert world.read(pod, "/data/readme") == "hello"
    node_process_is_back(world)
    restored(world, pod)


long = pytest.mark.skipif(not os.environ.get("DYNVOL_LONG"), reason="takes minutes: set DYNVOL_LONG=1")


@pytest.mark.parametrize("delay", [0.2, pytest.param(0.0, marks=long), pytest.param(0.6, marks=long)])
def test_a_node_process_killed_while_a_mount_is_being_made_or_removed_converges(world: World, delay: float) -> None:
    """Somewhere in the middle. At each of its writes and system calls, unit tests kill it."""
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    time.sleep(delay)
    assert world.ground.kill("dynvol node")
    node_process_is_back(world)
    restored(world, pod)
    world.kubectl.delete("dvc", "data", wait=False)
    time.sleep(delay)
    assert world.ground.kill("dynvol node")
    node_process_is_back(world)
    world.settles(lambda: "NotFound" in world.kubectl.try_("get", "dvc", "data").said, what="the claim is gone")
    assert world.misses(pod, "/data")
    assert world.restarts(pod) == 0


def test_a_workload_that_vanished_while_the_node_process_was_dead_leaves_nothing(mounted: tuple[World, str]) -> None:
    world, _ = mounted
    world.ground.kill("dynvol node")
    world.kubectl.delete("deployment", "web")
    world.settles(lambda: not world.pods())
    node_process_is_back(world)
    world.settles(lambda: not world.mount_pods(), what="its mount pod is gone")


def test_a_container_that_restarts_finds_its_mounts_again(world: World) -> None:
    spec = manifests.pod_spec(command=["sh", "-c", "trap 'exit 3' TERM; while true; do sleep 0.2; done"])
    (pod,) = world.deploy(spec=spec)
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    for count in (1, 2):
        world.kubectl.exec(pod, "kill", "-TERM", "1")
        world.settles(lambda count=count: world.restarts(pod) == count, what="kubelet restarted the container")  # type: ignore[misc]
        world.settles(lambda: world.sees(pod, "/data/readme", "hello"))


def test_a_workload_deleted_under_an_open_file_ends_in_time_and_leaves_nothing(world: World) -> None:
    reader = f"while true; do tail -f {ROOT}/data/readme > /dev/null 2>&1; sleep 0.2; done"
    (pod,) = world.deploy(spec=manifests.pod_spec(command=["sh", "-c", reader]))
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    world.kubectl.delete("deployment", "web")
    world.kubectl.wait(f"pod/{pod}", condition="delete", timeout=30)
    world.settles(lambda: not world.mount_pods(), what="its mount pod is gone")


def test_a_claim_deleted_under_an_open_file_does_not_hang(world: World) -> None:
    reader = f"while true; do tail -f {ROOT}/data/readme > /dev/null 2>&1; sleep 0.2; done"
    (pod,) = world.deploy(spec=manifests.pod_spec(command=["sh", "-c", reader]))
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    world.kubectl.delete("dvc", "data", timeout=60)
    assert world.misses(pod, "/data")
    assert world.restarts(pod) == 0


def test_a_stopped_fuse_client_hangs_no_deletion(mounted: tuple[World, str]) -> None:
    world, pod = mounted
    (mount_pod,) = world.mount_pods()
    assert world.ground.kill("s3fs", pod=mount_pod, signal="STOP")
    world.kubectl.delete("dvc", "data", timeout=90)
    assert world.misses(pod, "/data")
    assert world.restarts(pod) == 0


def test_a_node_can_be_drained_as_administrators_do(mounted: tuple[World, str]) -> None:
    """`kubectl drain` refuses nodes with pods that nobody would make anew, or whose data would go with them. Only asked: others may
    be at work on the node."""
    world, pod = mounted
    (mount_pod,) = world.mount_pods()
    node = world.kubectl.get("pod", pod)["spec"]["nodeName"]
    selector = f"--pod-selector={manifests.GROUP}/mount-pod"
    said = world.kubectl("drain", node, "--ignore-daemonsets", selector, "--dry-run=client")
    assert f"dynvol-system/{mount_pod}" in said


def node_process_is_back(world: World) -> None:
    """Or another in its place, so that no test waits for kubelet's back-off, which grows with every kill."""
    system = world.kubectl.within("dynvol-system")

    def runs() -> bool:
        pods = system.list("pods", "--selector=app.kubernetes.io/component=node")
        for pod in pods:
            if any(_backs_off(status) for status in pod["status"].get("containerStatuses", [])):
                system.delete("pod", pod["metadata"]["name"], wait=False)
        # Asked of the nodes too, harmlessly: the API says for a while that what was just killed is ready.
        lives = world.ground.kill("dynvol node", signal="CONT")
        return lives > 0 and "successfully rolled out" in system("rollout", "status", "daemonset/dynvol-node", "--timeout=2s")

    world.settles(runs)


def _backs_off(status: dict[str, Any]) -> bool:
    return bool(status["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff")
