"""What a holder is, and what its troubles mean."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.core import Event, PersistentVolumeClaim, Pod
from dynvol.api.identity import Holding, uuid_of_holder
from dynvol.controllers.held.holders import meaning, verdict
from dynvol.controllers.held.holderspec import holder_pod, holding_of

HOLDING = Holding("node", "team", "disk", 1000)


def made(holding: Holding = HOLDING, *, number: int = 0) -> dict[str, Any]:
    return copy.deepcopy(holder_pod(holding, number=number, image="dynvol", node=None))


def understood(manifest: dict[str, Any]) -> Holding | None:
    return holding_of(msgspec.convert(manifest, Pod), node="node")


@pytest.mark.parametrize("holding", [HOLDING, Holding("node", "team", "disk", None)])
def test_a_holder_says_what_it_holds(holding: Holding) -> None:
    manifest = made(holding, number=3)
    assert understood(manifest) == holding
    assert uuid_of_holder(manifest["metadata"]["name"]) == holding.uuid


def test_each_node_claim_and_group_has_a_holder_of_its_own() -> None:
    others = [
        Holding("other", "team", "disk", 1000),
        Holding("node", "other", "disk", 1000),
        Holding("node", "team", "other", 1000),
        Holding("node", "team", "disk", None),
        Holding("node", "team", "disk", 0),
    ]
    assert len({holding.uuid for holding in (HOLDING, *others)}) == 6


def _spec(**changed: Any) -> dict[str, Any]:
    manifest = made()
    manifest["spec"] |= changed
    return manifest


def _container(**changed: Any) -> dict[str, Any]:
    manifest = made()
    manifest["spec"]["containers"][0] |= changed
    return manifest


def _metadata(**changed: Any) -> dict[str, Any]:
    manifest = made()
    manifest["metadata"] |= changed
    return manifest


SECRET = {"name": "volume", "secret": {"secretName": "keys"}}
MOUNTS_ALL = {"name": "volume", "mountPath": "/volume"}


@pytest.mark.parametrize(
    "manifest",
    [
        _spec(volumes=[SECRET]),
        _spec(volumes=[*made()["spec"]["volumes"], SECRET | {"name": "more"}]),
        _spec(volumes=[{"name": "volume", "persistentVolumeClaim": {"claimName": "other"}}]),
        _spec(initContainers=made()["spec"]["containers"]),
        _spec(securityContext={}),
        _container(name="other"),
        _container(volumeMounts=[]),
        _container(volumeMounts=[MOUNTS_ALL]),
        _container(volumeMounts=[MOUNTS_ALL | {"subPath": "in"}]),
        _metadata(name="dynvol-holder-x-0"),
        _metadata(name="mine"),
        _metadata(namespace="other"),
        _metadata(labels={names.HOLDER_LABEL: "x"}),
    ],
)
def test_a_pod_that_could_hold_anything_else_is_no_holder(manifest: dict[str, Any]) -> None:
    assert understood(manifest) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "VolumeClaimTerminating"),
        ({"spec": {"volumeMode": "Block"}}, "VolumeIsBlockDevice"),
        ({"spec": {"accessModes": ["ReadWriteOncePod"]}}, "VolumeIsForOnePod"),
        ({"status": {"phase": "Lost"}}, "VolumeClaimLost"),
        ({"spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}}, None),
        ({"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}}, None),
    ],
)
def test_a_claim_that_no_running_pod_can_have_is_told_in_words(changed: dict[str, Any], reason: str | None) -> None:
    standing = verdict(msgspec.convert(changed, PersistentVolumeClaim), "PersistentVolumeClaim team/disk")
    assert (standing.reason if standing else None) == reason
    assert standing is None or "team/disk" in standing.message


MULTI_ATTACH = 'Multi-Attach error for volume "pv" Volume is already exclusively attached to one node'


@pytest.mark.parametrize(
    ("reason", "message", "told"),
    [
        ("FailedAttachVolume", MULTI_ATTACH, "VolumeAttachedElsewhere"),
        ("FailedAttachVolume", "AttachVolume.Attach failed", "VolumeNotAttached"),
        ("FailedMount", "MountVolume.SetUp failed", "VolumeNotMounted"),
        ("Unhealthy", "anything", None),
    ],
)
def test_what_kubernetes_says_of_a_volume_is_passed_on(reason: str, message: str, told: str | None) -> None:
    standing = meaning([Event(reason=reason, message=message)], "holder-0")
    assert (standing.reason if standing else None) == told
    assert standing is None or message in standing.message


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["FailedScheduling", "FailedMount", "MissingClusterDNS"], "VolumeNotMounted"),
        (["FailedAttachVolume", "FailedMount"], "VolumeNotAttached"),
        (["FailedAttachVolume", "SuccessfulAttachVolume"], None),
        (["FailedAttachVolume", "SuccessfulAttachVolume", "FailedMount"], "VolumeNotMounted"),
        (["FailedMount", "FailedMount", "Failed"], "HolderFailed"),
    ],
)
def test_that_a_volume_is_not_attached_is_said_until_it_is(said: list[str], told: str | None) -> None:
    """In whatever order the API server lists what was said. What means nothing here hides nothing."""
    events = [Event(reason=reason, last_timestamp=f"2026-01-01T00:00:0{at}Z") for at, reason in enumerate(said)]
    for listed in (events, events[::-1]):
        standing = meaning(listed, "holder-0")
        assert (standing.reason if standing else None) == told
