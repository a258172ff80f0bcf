"""Pods that share a mount pod share its mounts: one client for each bucket, bound into each pod."""

from __future__ import annotations

import pytest

from e2e import manifests
from e2e.conftest import World

SHARED = {f"{manifests.GROUP}/mount-pod-dispatch-policy": "shared"}


def clients(world: World) -> int:
    """How many FUSE clients run in the namespace's only mount pod. The signal does nothing to those that run."""
    (mount_pod,) = world.mount_pods()
    return world.ground.kill("s3fs", pod=mount_pod, signal="CONT")


@pytest.fixture
def three(world: World) -> list[str]:
    """Pods that read and write one bucket."""
    pods = world.deploy(replicas=3, annotations=SHARED)
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    return pods


def test_one_client_serves_all_pods(world: World, three: list[str]) -> None:
    for pod in three:
        assert world.read(pod, "/data/readme") == "hello"
    assert clients(world) == 1


def test_a_pods_end_disturbs_no_other(world: World, three: list[str]) -> None:
    """A program of the pod that stays reads on and on; it would stop at the first error."""
    stays, *_ = three
    world.kubectl.apply(manifests.pod("goes", annotations={**world.annotations, **SHARED}))
    world.kubectl.wait("pod/goes", condition="condition=Ready")
    world.settles(lambda: world.kubectl.exec("goes", "cat", f"{manifests.ROOT}/data/readme").out == "hello")
    reading = f"while cat {manifests.ROOT}/data/readme && echo >> /tmp/rounds; do sleep 0.02; done; touch /tmp/failed"
    world.kubectl.exec(stays, "sh", "-c", f"({reading}) > /dev/null 2>&1 &")

    world.kubectl.delete("pod", "goes")
    world.settles(lambda: "goes" not in world.phases("data"), what="the claim has let the pod go")

    assert world.kubectl.exec(stays, "ls", "/tmp/rounds").code == 0
    assert world.kubectl.exec(stays, "ls", "/tmp/failed").code != 0
    assert clients(world) == 1
    assert world.read(stays, "/data/readme") == "hello"


def test_a_client_that_is_killed_comes_back_for_all(world: World, three: list[str]) -> None:
    (mount_pod,) = world.mount_pods()
    assert world.ground.kill("s3fs", pod=mount_pod) == 1
    for pod in three:
        world.settles(lambda pod=pod: world.kubectl.exec(pod, "cat", f"{manifests.ROOT}/data/readme").out == "hello")  # type: ignore[misc]
        assert world.restarts(pod) == 0
    assert clients(world) == 1
