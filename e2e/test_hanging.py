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
