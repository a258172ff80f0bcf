"""A program hangs in a mount whose client answers nothing: its pod can be deleted all the same.

`DYNVOL_LONG=1`: a pod is given a minute to end by itself before its mounts are taken from it.
"""

from __future__ import annotations

import os

import pytest

from e2e import manifests
from e2e.conftest import World
from e2e.manifests import ROOT

long = pytest.mark.skipif(not os.environ.get("DYNVOL_LONG"), reason="takes minutes: set DYNVOL_LONG=1")


@long
@pytest.mark.timeout(400)
def test_a_pod_whose_program_hangs_in_a_mount_ends_when_it_has_had_its_time(world: World) -> None:
    reader = f"while true; do cat {ROOT}/data/* > /dev/null 2>&1; done"
    (pod,) = world.deploy(spec=manifests.pod_spec(command=["sh", "-c", reader]) | {"terminationGracePeriodSeconds": 1})
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    (mount_pod,) = world.mount_pods()
    assert world.ground.kill("s3fs", pod=mount_pod, signal="STOP")
    world.kubectl.delete("deployment", "web", wait=False)
    world.settles(lambda: "PodOverdue" in {reason for reason, _ in world.kubectl.events("Pod", pod)}, within=120)
    world.kubectl.wait(f"pod/{pod}", condition="delete", timeout=100)
    world.settles(lambda: not world.mount_pods(), what="its mount pod is gone")


@long
@pytest.mark.timeout(400)
def test_one_of_several_pods_on_a_client_that_hangs_ends_too_and_the_others_have_it_back(world: World) -> None:
    shared = {f"{manifests.GROUP}/mount-pod-dispatch-policy": "shared"}
    reader = f"while true; do cat {ROOT}/data/* > /dev/null 2>&1; done"
    for name in ("goes", "stays"):
        spec = manifests.pod_spec(command=["sh", "-c", reader]) | {"terminationGracePeriodSeconds": 1}
        world.kubectl.apply(manifests.pod(name, annotations={**world.annotations, **shared}, spec=spec))
        world.kubectl.wait(f"pod/{name}", condition="condition=Ready")
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    (mount_pod,) = world.mount_pods()
    assert world.ground.kill("s3fs", pod=mount_pod, signal="STOP")
    world.kubectl.delete("pod", "goes", wait=False)
    world.settles(lambda: "PodOverdue" in {reason for reason, _ in world.kubectl.events("Pod", "goes")}, within=120)
    world.kubectl.wait("pod/goes", condition="delete", timeout=100)
    world.settles(lambda: world.sees("stays", "/data/readme", "hello"), what="the file is readable again")
    assert world.restarts("stays") == 0
