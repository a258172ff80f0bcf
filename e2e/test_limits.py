"""As many mounts as there is room for, and a sentence for the others.

`DYNVOL_LONG=1` adds the forms that take minutes, two cores and some GiB of memory.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from e2e import manifests
from e2e.conftest import World

long = pytest.mark.skipif(not os.environ.get("DYNVOL_LONG"), reason="takes minutes: set DYNVOL_LONG=1")


def in_a_class_of(world: World, memory: str) -> World:
    name = f"{world.namespace}-{memory.lower()}"
    world.kubectl.apply(manifests.provider_class(name, secret="s3", secret_namespace=world.namespace, mount_memory_limit=memory))
    return world.in_class(name)


def make_claims(world: World, bucket: str, *numbers: int) -> None:
    world.kubectl.apply(*(world.claim(f"c{n:03}", bucket, mountpoint=f"/m{n:03}") for n in numbers))


def standings(world: World) -> Counter[str]:
    """How many mounts stand how: their phase, or the reason why they have none."""
    entries = [e for claim in world.kubectl.list("dvc") for e in claim.get("status", {}).get("pods", [])]
    return Counter(e.get("reason") or e["phase"] for e in entries)


def test_claims_beyond_what_a_mount_pods_memory_holds_are_refused_and_harm_no_other(world: World) -> None:
    """Without this the kernel would kill clients in turns, those of the first claims too."""
    small = in_a_class_of(world, "50Mi")
    (pod,) = small.deploy()
    bucket = world.bucket(hello="hello")
    make_claims(small, bucket, *range(9))
    world.settles(lambda: standings(world) == {"Mounted": 9}, within=90, what="nine mounts")
    first = world.kubectl.exec(pod, "stat", "-c", "%d", f"{manifests.ROOT}/m000").out

    make_claims(small, bucket, 9, 10, 11)
    world.settles(lambda: standings(world) == {"Mounted": 9, "TooManyMounts": 3}, what="three refused")
    said = world.condition("c011", "Ready")
    assert said["reason"] == "TooManyMounts" and "50Mi, holds no more than 9 mounts with s3fs" in said["message"]
    assert all(world.read(pod, f"/m{n:03}/hello") == "hello" for n in range(9))
    assert world.kubectl.exec(pod, "stat", "-c", "%d", f"{manifests.ROOT}/m000").out == first, "it was mounted anew"

    world.kubectl.delete("dvc", "c004")
    world.settles(lambda: standings(world) == {"Mounted": 9, "TooManyMounts": 2}, what="the next in line")
    assert world.restarts(pod) == 0


@long
@pytest.mark.timeout(900)
def test_two_hundred_claims_on_one_pod(world: World) -> None:
    roomy = in_a_class_of(world, "640Mi")
    (pod,) = roomy.deploy()
    make_claims(roomy, world.bucket(hello="hello"), *range(200))
    world.settles(lambda: standings(world) == {"Mounted": 200}, within=300, what="two hundred mounts")
    listed = world.kubectl.exec(pod, "sh", "-c", f"cat {manifests.ROOT}/*/hello").out
    assert listed == "hello" * 200
    assert world.restarts(pod) == 0


ROOM = 110
"""Pods on a node: kubelet's own default."""
INDEPENDENT = 20
"""Workload pods with a mount pod each; all others share one."""


@long
@pytest.mark.timeout(1500)
def test_a_node_as_full_of_pods_as_it_can_be(world: World) -> None:
    """All of them are served; one whose mount pod finds no room says so, and is served when there is some."""
    if world.ground.kubectl.list("nodes")[0]["status"]["allocatable"]["pods"] != str(ROOM):
        pytest.skip(f"the first node is not made for {ROOM} pods")
    shared, alone = in_a_class_of(world, "128Mi"), in_a_class_of(world, "64Mi")
    world.kubectl.apply(world.claim("data", world.bucket(hello="hello"), selector={}))
    place = manifests.pod_spec(nodeSelector={"kubernetes.io/hostname": first_node(world)})
    policy = {f"{manifests.GROUP}/mount-pod-dispatch-policy": "shared"}
    sharing = ROOM - pods_there(world) - 2 * INDEPENDENT - 2
    world.kubectl.apply(
        manifests.deployment("sharing", annotations=shared.annotations | policy, replicas=sharing, spec=place),
        manifests.deployment("alone", annotations=alone.annotations, replicas=INDEPENDENT, spec=place),
    )
    world.settles(lambda: standings(world) == {"Mounted": sharing + INDEPENDENT}, within=900, what="all of them")
    assert pods_there(world) == ROOM - 1
    last = manifests.pod("last", annotations=alone.annotations, spec=place)
    # On a machine this busy the webhook may miss the API server's deadline; whoever makes pods tries again.
    world.settles(lambda: world.kubectl.apply(last), what="the last pod is admitted")
    world.settles(lambda: standings(world)["MountPodUnschedulable"] == 1, within=120, what="no room for a mount pod")
    assert "Too many pods" in world.condition("data", "Ready")["message"]

    world.kubectl("scale", "deployment/sharing", f"--replicas={sharing - 1}")
    world.settles(lambda: standings(world) == {"Mounted": sharing + INDEPENDENT}, within=180, what="the last one too")
    for pod in (*world.pods("app=sharing"), *world.pods("app=alone"), "last"):
        world.settles(lambda pod=pod: world.sees(pod, "/data/hello", "hello"))  # type: ignore[misc]
        assert world.restarts(pod) == 0


def first_node(world: World) -> str:
    return str(world.ground.kubectl.list("nodes")[0]["metadata"]["name"])


def pods_there(world: World) -> int:
    """How many of the first node's places are taken."""
    return len(world.ground.kubectl.list("pods", "--all-namespaces", f"--field-selector=spec.nodeName={first_node(world)}"))
