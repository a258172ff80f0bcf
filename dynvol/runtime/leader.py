"""One of many: leader election on a lease."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from .metrics import UNMEASURED, LeaderMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """What stands in the lease (`coordination.k8s.io` LeaseSpec). The times are for people: no decision rests on them."""

    holder: str
    """Empty: nobody."""
    duration: int
    """Seconds that others wait, from when they see a change, before they take over."""
    acquired: datetime.datetime
    renewed: datetime.datetime
    transitions: int = 0


@dataclass(frozen=True, slots=True)
class ObservedLease:
    record: LeaseRecord
    version: str
    """Its resource version: it changes with every write."""


class LeaseLock(Protocol):
    """One lease in some API. All calls may raise; whatever they raise counts as an attempt that failed."""

    async def get(self) -> ObservedLease | None:
        """None where there is no such lease."""

    async def create(self, record: LeaseRecord) -> ObservedLease:
        """Raises where there is one already."""

    async def update(self, record: LeaseRecord, *, version: str) -> ObservedLease:
        """Raises where the lease is no longer at `version`."""


class LeaderElector:
    def __init__(
        self,
        lock: LeaseLock,
        *,
        name: str,
        identity: str,
        lease_duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 2.0,
        metrics: LeaderMetrics = UNMEASURED,
    ) -> None:
        raise NotImplementedError

    @property
    def leading(self) -> bool:
        raise NotImplementedError

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait to be the leader, run `work`, release. Raises `LeadershipLost`; then the process should end."""
        raise NotImplementedError
