from __future__ import annotations

import datetime

import pytest

from dynvol.kube import errors
from dynvol.kube.client import KubeClient
from dynvol.kube.lease import ApiLeaseLock
from dynvol.runtime.leader import LeaseRecord

from .server import Script, refuses, says

NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
RECORD = LeaseRecord(holder="n1", duration=15, acquired=NOW, renewed=NOW + datetime.timedelta(microseconds=5), transitions=2)
SPEC = {
    "holderIdentity": "n1",
    "leaseDurationSeconds": 15,
    "acquireTime": "2026-01-31T12:00:00.000000Z",
    "renewTime": "2026-01-31T12:00:00.000005Z",
    "leaseTransitions": 2,
}


def lease(version: str = "7", **spec: object) -> dict[str, object]:
    return {"metadata": {"name": "l", "namespace": "ns", "resourceVersion": version}, "spec": SPEC | spec}


async def test_a_lease_is_read_as_a_record_with_its_version(client: KubeClient, script: Script) -> None:
    script.then(says(lease()))
    observed = await ApiLeaseLock(client, namespace="ns", name="l").get()
    assert observed is not None
    assert (observed.record, observed.version) == (RECORD, "7")


async def test_no_lease_is_none(client: KubeClient, script: Script) -> None:
    script.then(refuses(404, "NotFound"))
    assert await ApiLeaseLock(client, namespace="ns", name="l").get() is None


async def test_a_lease_that_somebody_else_made_may_say_anything(client: KubeClient, script: Script) -> None:
    script.then(
        says(lease(holderIdentity=None, leaseDurationSeconds=None, acquireTime=None, renewTime="yesterday", leaseTransitions=None))
    )
    observed = await ApiLeaseLock(client, namespace="ns", name="l").get()
    assert observed is not None
    assert (observed.record.holder, observed.record.transitions) == ("", 0)


async def test_a_lease_is_created_with_all_that_the_record_says(client: KubeClient, script: Script) -> None:
    script.then(says(lease("1")))
    observed = await ApiLeaseLock(client, namespace="ns", name="l").create(RECORD)
    assert observed.version == "1"
    assert script.seen[0].json == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "l"},
        "spec": SPEC,
    }


async def test_an_update_names_the_version_that_it_replaces(client: KubeClient, script: Script) -> None:
    script.then(says(lease("8"))).then(refuses(409, "Conflict", "the object has been modified"))
    lock = ApiLeaseLock(client, namespace="ns", name="l")
    assert (await lock.update(RECORD, version="7")).version == "8"
    assert script.seen[0].json == {"metadata": {"resourceVersion": "7"}, "spec": SPEC}
    with pytest.raises(errors.Conflict):
        await lock.update(RECORD, version="7")


async def test_a_released_lease_has_no_holder(client: KubeClient, script: Script) -> None:
    script.then(says(lease("8", holderIdentity=None)))
    released = LeaseRecord(holder="", duration=0, acquired=NOW, renewed=NOW)
    observed = await ApiLeaseLock(client, namespace="ns", name="l").update(released, version="7")
    assert observed.record.holder == ""
    assert script.seen[0].json["spec"]["holderIdentity"] is None
    assert script.seen[0].json["spec"]["leaseDurationSeconds"] == 1
