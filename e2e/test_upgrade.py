"""Upgraded, and taken back, under a pod that reads and writes. Other versions than this one meet in `test_skew`."""

from __future__ import annotations

import yaml

from e2e.busy import await_rounds, busy_pod, identity, mount_pod_of, processes
from e2e.conftest import World
from e2e.grounds import installation


def test_an_upgrade_and_the_way_back_are_not_noticed_by_a_pod_that_reads_and_writes(world: World) -> None:
    kubectl = world.ground.kubectl
    present = installation.manifest(kubectl, image=installation.image(kubectl))
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    pod = busy_pod(world)
    mount_pod = mount_pod_of(world, pod)
    before = identity(world, mount_pod)

    for step, wanted in (("up", newer(present)), ("down", present)):
        old = processes(kubectl)
        installation.install(kubectl, wanted)
        world.settles(lambda old=old: not processes(kubectl) & old, what="all processes are new")  # type: ignore[misc]
        await_rounds(world, pod)
        assert identity(world, mount_pod) == before
        world.kubectl.apply(world.claim(step, world.bucket(step, readme=step), mountpoint=f"/{step}"))
        world.ready(step)
        assert world.read(pod, f"/{step}/readme") == step
    await_rounds(world, pod)
    assert identity(world, mount_pod) == before, "the mount pod of the first process serves the last one"


def newer(manifest: str) -> str:
    """Another DaemonSet, Deployment and definitions, all of which do the same."""
    documents = list(yaml.safe_load_all(manifest))
    for document in documents:
        match document["kind"]:
            case "DaemonSet" | "Deployment":
                document["spec"]["template"]["metadata"].setdefault("annotations", {})["version"] = "newer"
            case "CustomResourceDefinition":
                document["spec"]["names"]["categories"] = ["newer"]
    return yaml.safe_dump_all(documents)
