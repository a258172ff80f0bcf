"""A `coordination.k8s.io` Lease as the lock that `dynvol.runtime`'s leader election needs.

Every write names the version that it replaces, so of two that want the lease at once the server refuses one.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

from ..api.core import Lease, LeaseSpec
from ..api.resources import LEASES
from ..runtime.leader import LeaseRecord, ObservedLease
from . import errors
from .client import KubeClient


class ApiLeaseLock:
    """Implements `dynvol.runtime.leader.LeaseLock`."""

    def __init__(self, client: KubeClient, *, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name

    async def get(self) -> ObservedLease | None:
        try:
            return _observed(await self._client.get(LEASES, self._name, namespace=self._namespace))
        except errors.NotFound:
            return None

    async def create(self, record: LeaseRecord) -> ObservedLease:
        """`AlreadyExists` where another was quicker."""
        body = {"metadata": {"name": self._name}, "spec": spec(record)}
        return _observed(await self._client.create(LEASES, body, namespace=self._namespace))

    async def update(self, record: LeaseRecord, *, version: str) -> ObservedLease:
        """`Conflict` where the lease is no longer at `version`."""
        body = {"metadata": {"resourceVersion": version}, "spec": spec(record)}
        return _observed(await self._client.merge_patch(LEASES, self._name, body, namespace=self._namespace))


def spec(record: LeaseRecord) -> dict[str, Any]:
    """The record as a LeaseSpec. Nobody is null and not empty: the server takes no empty holder and no duration of zero."""
    return {
        "holderIdentity": record.holder or None,
        "leaseDurationSeconds": max(1, math.ceil(record.duration)),
        "acquireTime": _micro_time(record.acquired),
        "renewTime": _micro_time(record.renewed),
        "leaseTransitions": record.transitions,
    }


def _observed(lease: Lease) -> ObservedLease:
    return ObservedLease(record=_record(lease.spec), version=lease.metadata.resource_version)


def _record(spec: LeaseSpec) -> LeaseRecord:
    return LeaseRecord(
        holder=spec.holder_identity or "",
        duration=spec.lease_duration_seconds or 0,
        acquired=_moment(spec.acquire_time),
        renewed=_moment(spec.renew_time),
        transitions=spec.lease_transitions or 0,
    )


def _micro_time(moment: datetime.datetime) -> str:
    """metav1.MicroTime: six digits behind the point, always."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(text: str | None) -> datetime.datetime:
    """Somebody else's lease may say anything; no decision rests on it."""
    try:
        return datetime.datetime.fromisoformat(text or "")
    except ValueError:
        return datetime.datetime.fromtimestamp(0, datetime.UTC)
