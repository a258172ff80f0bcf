"""A pod that reads and writes all the time and tells what it could not, and what must not change about its mount pod meanwhile."""

from __future__ import annotations

from typing import Any

from e2e import manifests
from e2e.conftest import World
from e2e.grounds.installation import SYSTEM
from e2e.kubectl import Kubectl
from e2e.manifests import ROOT

_SCRIPT = """
until [ -e "$1/readme" ]; do sleep 0.1; done
round=0
while :; do
    round=$((round + 1))
    file="$1/$2-$((round % 5))"
    echo $round > $file && [ "$(cat $file)" = $round ] && [ "$(cat "$1/readme")" = hello ] || echo FAILED in round $round
    echo $round
    sleep 0.1
done
"""
"""Writes files of its own, reads them back, reads another, and says how it went."""


def busy_pod(world: World, name: str = "busy") -> str:
    """Its name, once the claim `data`, which must be there, has reached it and it has begun."""
    spec = manifests.pod_spec(command=["sh", "-c", _SCRIPT, "sh", f"{ROOT}/data", name])
    world.kubectl.apply(manifests.pod(name, annotations=world.annotations, spec=spec))
    world.kubectl.wait(f"pod/{name}", condition="condition=Ready")
    await_rounds(world, name)
    return name


def await_rounds(world: World, pod: str, *, count: int = 5) -> None:
    """Until the pod has done so many more, and none that failed."""

    def done() -> int:
        said = world.kubectl("logs", pod)
        assert "FAILED" not in said, said[-2000:]
        return len(said.splitlines())

    goal = done() + count
    world.settles(lambda: done() >= goal, what="the pod goes on reading and writing")
    assert world.restarts(pod) == 0


def mount_pod_of(world: World, pod: str) -> str:
    """The name of the mount pod that serves this one alone."""
    uid = world.kubectl.get("pod", pod)["metadata"]["uid"]
    system = world.kubectl.within(SYSTEM)
    key = f"{manifests.GROUP}/workload"
    found = system.list("pods", f"--selector={manifests.GROUP}/mount-pod")
    (name,) = [str(p["metadata"]["name"]) for p in found if p["metadata"]["annotations"].get(key, "").endswith(f"/{uid}")]
    return name


def identity(world: World, mount_pod: str) -> tuple[str, str, int]:
    """Uid, image, and how often its container was restarted: what no upgrade may change."""
    pod: dict[str, Any] = world.kubectl.within(SYSTEM).get("pod", mount_pod)
    (container,), (status,) = pod["spec"]["containers"], pod["status"]["containerStatuses"]
    return pod["metadata"]["uid"], container["image"], status["restartCount"]


def processes(kubectl: Kubectl) -> set[str]:
    """Uids of the pods of node processes and webhooks."""
    selector = "app.kubernetes.io/name=dynvol,app.kubernetes.io/component in (node, webhook)"
    return {pod["metadata"]["uid"] for pod in kubectl.within(SYSTEM).list("pods", f"--selector={selector}")}
