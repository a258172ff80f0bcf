"""Pods that share a mount pod share its mounts: one client for each bucket, bound into each pod, whichever claim it is for."""

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


def reading_on_and_on(world: World, pod: str, path: str) -> None:
    """A program of the pod that stops at the first error."""
    reading = f"while cat {manifests.ROOT}{path} && echo >> /tmp/rounds; do sleep 0.02; done; touch /tmp/failed"
    world.kubectl.exec(pod, "sh", "-c", f"({reading}) > /dev/null 2>&1 &")


def never_failed(world: World, pod: str) -> bool:
    return world.kubectl.exec(pod, "ls", "/tmp/rounds").code == 0 and world.kubectl.exec(pod, "ls", "/tmp/failed").code != 0


def test_a_pods_end_disturbs_no_other(world: World, three: list[str]) -> None:
    stays, *_ = three
    world.kubectl.apply(manifests.pod("goes", annotations={**world.annotations, **SHARED}))
    world.kubectl.wait("pod/goes", condition="condition=Ready")
    world.settles(lambda: world.kubectl.exec("goes", "cat", f"{manifests.ROOT}/data/readme").out == "hello")
    reading_on_and_on(world, stays, "/data/readme")

    world.kubectl.delete("pod", "goes")
    world.settles(lambda: "goes" not in world.phases("data"), what="the claim has let the pod go")

    assert never_failed(world, stays)
    assert clients(world) == 1
    assert world.read(stays, "/data/readme") == "hello"


def test_a_second_claim_on_the_bucket_has_the_same_client_and_the_end_of_one_disturbs_no_other(
    world: World, three: list[str]
) -> None:
    """Also when the claim goes for which the client was started."""
    pod, *others = three
    data = world.kubectl.get("dvc", "data")["spec"]
    twin = {**data, "mountpoint": "/twin"}
    world.kubectl.apply({**world.claim("twin", data["s3Config"]["bucket"]), "spec": twin})
    world.ready("twin")
    assert clients(world) == 1
    assert world.read(others[0], "/twin/readme") == "hello"
    reading_on_and_on(world, pod, "/twin/readme")
    world.kubectl.delete("dvc", "data")
    assert all(world.misses(each, "/data") for each in three)
    assert never_failed(world, pod)
    assert world.read(pod, "/twin/readme") == "hello"
    assert clients(world) == 1


def test_a_client_that_is_killed_comes_back_for_all(world: World, three: list[str]) -> None:
    (mount_pod,) = world.mount_pods()
    assert world.ground.kill("s3fs", pod=mount_pod) == 1
    for pod in three:
        world.settles(lambda pod=pod: world.kubectl.exec(pod, "cat", f"{manifests.ROOT}/data/readme").out == "hello")  # type: ignore[misc]
        assert world.restarts(pod) == 0
    assert clients(world) == 1
