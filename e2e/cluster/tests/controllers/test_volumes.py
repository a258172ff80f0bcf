"""Which volume a claim gets, and on which nodes a pod can have it: the decisions."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.cluster.api import Object
from e2e.cluster.controllers.scheduler import Storage
from e2e.cluster.controllers.volumes import chosen, fits, reference_to


def claim(name: str = "c", **spec: Any) -> Object:
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    return {"metadata": {"namespace": "ns", "name": name, "uid": f"uid-{name}"}, "spec": asked}


def volume(name: str, **spec: Any) -> Object:
    offered = {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": "1Gi"}, **spec}
    return {"metadata": {"name": name, "labels": {"speed": name}}, "spec": offered}


@pytest.mark.parametrize(
    ("asked", "offered"),
    [
        ({"accessModes": ["ReadWriteMany"]}, {}),
        ({"resources": {"requests": {"storage": "2Gi"}}}, {}),
        ({"storageClassName": "fast"}, {}),
        ({}, {"storageClassName": "fast"}),
        ({"volumeMode": "Block"}, {}),
        ({"volumeName": "other"}, {}),
        ({"selector": {"matchLabels": {"speed": "fast"}}}, {}),
        ({}, {"claimRef": {"namespace": "ns", "name": "other"}}),
        ({}, {"claimRef": {"namespace": "ns", "name": "c", "uid": "of an earlier claim"}}),
    ],
)
def test_a_claim_gets_no_volume_without_what_it_asks_for(asked: Object, offered: Object) -> None:
    assert fits(claim(), volume("v"))
    assert not fits(claim(**asked), volume("v", **offered))


def test_a_claim_gets_its_own_volume_or_else_the_smallest() -> None:
    big, small = volume("a", capacity={"storage": "9Gi"}), volume("b", capacity={"storage": "2Gi"})
    assert chosen(claim(), [big, small]) is small
    big["spec"]["claimRef"] = {"namespace": "ns", "name": "c"}
    assert chosen(claim(), [big, small]) is big
    big["spec"]["claimRef"] = reference_to(claim())
    assert chosen(claim(), [big, small]) is big
    assert chosen(claim("other"), [big]) is None


def on(node: str) -> Object:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}


def node(name: str) -> Object:
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}


def test_a_pod_follows_its_volume_and_a_volume_that_waits_follows_the_pod() -> None:
    bound = Storage(bound=[volume("v", **on("one"))])
    assert bound.objection(node("one")) is None
    assert bound.objection(node("two")) == "node(s) didn't match PersistentVolume's node affinity"
    here, there = volume("here", **on("one")), volume("there", **on("two"))
    waiting = Storage(waiting=[claim()], volumes=[here, there])
    assert waiting.choice(node("two")) == [(claim(), there)]
    none = Storage(waiting=[claim("a"), claim("b")], volumes=[here])
    assert none.objection(node("one")) == "node(s) didn't find available persistent volumes to bind"
