"""Claims, labels and replicas change; the pods follow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from e2e import manifests
from e2e.conftest import World


def patch(world: World, name: str, **spec: Any) -> None:
    world.kubectl("patch", "dvc", name, "--type=merge", "-p", json.dumps({"spec": spec}))


def test_an_edited_bucket_mountpoint_or_mode_is_followed(world: World) -> None:
    (pod,) = world.deploy()
    first, second = world.bucket("a", name="first"), world.bucket("b", name="second")
    world.kubectl.apply(world.claim("data", first))
    world.ready("data")

    patch(world, "data", s3Config={"bucket": second})
    world.settles(lambda: world.sees(pod, "/data/name", "second"), what="the other bucket")

    patch(world, "data", mountpoint="/moved")
    world.settles(lambda: world.sees(pod, "/moved/name", "second"), what="the other path")
    assert world.misses(pod, "/data")

    assert world.kubectl.exec(pod, "touch", f"{manifests.ROOT}/moved/writable").code == 0
    patch(world, "data", readOnly=True)
    world.settles(lambda: "Read-only" in world.kubectl.exec(pod, "touch", f"{manifests.ROOT}/moved/no").said, what="read-only")
    world.ready("data")
    assert world.restarts(pod) == 0


def test_a_pod_that_loses_its_label_loses_the_mount_and_the_other_keeps_it(world: World) -> None:
    for name in ("stays", "leaves"):
        world.kubectl.apply(manifests.pod(name, annotations=world.annotations, labels={"app": "web", "wants": "data"}))
    for name in ("stays", "leaves"):
        world.kubectl.wait(f"pod/{name}", condition="condition=Ready")
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello"), selector={"matchLabels": {"wants": "data"}}))
    world.ready("data")
    assert world.phases("data") == {"stays": "Mounted", "leaves": "Mounted"}

    world.kubectl("label", "pod", "leaves", "wants-")
    world.settles(lambda: world.misses("leaves", "/data"), what="gone from the pod without the label")
    assert world.read("stays", "/data/readme") == "hello"
    world.settles(lambda: world.phases("data") == {"stays": "Mounted"})

    world.kubectl("label", "pod", "leaves", "wants=data")
    world.settles(lambda: world.sees("leaves", "/data/readme", "hello"), what="back with the label")
    assert world.restarts("leaves") == world.restarts("stays") == 0


def test_match_expressions_and_the_empty_selector(world: World) -> None:
    for name, tier in (("front", "a"), ("back", "b")):
        world.kubectl.apply(manifests.pod(name, annotations=world.annotations, labels={"tier": tier}))
        world.kubectl.wait(f"pod/{name}", condition="condition=Ready")
    bucket = world.bucket(readme="hello")
    expression = {"key": "tier", "operator": "NotIn", "values": ["a"]}
    world.kubectl.apply(
        world.claim("some", bucket, mountpoint="/some", selector={"matchExpressions": [expression]}),
        world.claim("all", bucket, mountpoint="/all", selector={}),
    )
    world.ready("some")
    world.ready("all")
    assert world.phases("some") == {"back": "Mounted"}
    assert set(world.phases("all")) == {"front", "back"}


def test_another_namespace_never_gets_it(world: World) -> None:
    elsewhere = world.kubectl.within(f"{world.namespace}-x")
    world.kubectl.apply(manifests.namespace(elsewhere.namespace))
    elsewhere.apply(manifests.pod("stranger", annotations=world.annotations))
    elsewhere.wait("pod/stranger", condition="condition=Ready")
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    assert world.phases("data") == {pod: "Mounted"}
    assert elsewhere.exec("stranger", "ls", "-A", manifests.ROOT).out == ""
    elsewhere("delete", "namespace", elsewhere.namespace, timeout=90)


@pytest.mark.parametrize("mountpoint", ["/data", "/data/nested", "/da"])
def test_an_equal_or_nested_mountpoint_is_refused_and_names_the_older_claim(world: World, mountpoint: str) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("older", world.bucket("a", name="older")))
    world.ready("older")
    world.kubectl.apply(world.claim("younger", world.bucket("b", name="younger"), mountpoint=mountpoint))
    if mountpoint == "/da":
        world.ready("younger")
        assert world.read(pod, "/da/name") == "younger"
        return
    world.settles(lambda: world.condition("younger", "Accepted")["reason"] == "MountpointConflict")
    assert "older" in world.condition("younger", "Accepted")["message"]
    assert world.read(pod, "/data/name") == "older"

    world.kubectl.delete("dvc", "older")
    world.ready("younger")
    assert world.read(pod, f"{mountpoint}/name") == "younger"
