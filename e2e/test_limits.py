"""As many mounts as there is room for, and a sentence for the others.

`DYNVOL_LONG=1` adds the form that takes minutes.
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
