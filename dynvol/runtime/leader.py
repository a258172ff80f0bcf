"""One of many: leader election on a lease, for work that must not be done twice at a time.

Whether a lease has run out is judged by this process' own clock, from when it *saw* the lease change. The times that stand in the
lease are another machine's, and are for people. The arithmetic that keeps two from leading together, with the usual 15, 10 and 2
seconds: a leader counts from before it sent its last good renewal, and stops its work 10 s later; anybody else counts from after
having seen that renewal, and waits 15. What is left, 5 s, is for the work to stop in.

A candidate that has seen somebody else's lease looks again when that could have run out, and no sooner: all that it would find are
renewals, and with a thousand candidates that makes hundreds of requests in a second, each of which the API server takes to its data
store. A leader that went is missed by whoever looks next: with many candidates hardly later than its lease ends, with a single one
after up to twice as long.

That is as much as a lease can do. It does not fence: a write that is on its way arrives. And a leader whose work will not stop
within those seconds is past help from inside; see `overrun`.
"""

from __future__ import annotations

import asyncio
import datetime
import enum
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from .backoff import Chance
from .errors import LeadershipLost
from .metrics import UNMEASURED, LeaderMetrics

log = logging.getLogger(__name__)

JITTER = 1.2
"""Candidates wait up to this much of a `retry_period` longer than they must (client-go's JitterFactor)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """What stands in the lease (`coordination.k8s.io` LeaseSpec). The times are for people: no decision rests on them."""

    holder: str
    """Empty: nobody."""
    duration: float
    """Seconds that others wait, from when they see a change, before they take over. The API has whole ones: round up."""
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


class Standing(enum.Enum):
    """What an attempt at the lease showed."""

    OURS = enum.auto()
    THEIRS = enum.auto()
    UNKNOWN = enum.auto()


def wall_clock() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class LeaderElector:
    """A candidate. `run` once; a process that loses the lead should end, and begin anew as another candidate.

    `identity` must be this process' alone: two that share one take each other's lease for their own.
    `overrun` is called once if the work still runs when others may take over. A process should end itself there, on the spot.
    """

    def __init__(
        self,
        lock: LeaseLock,
        *,
        name: str,
        identity: str,
        lease_duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 2.0,
        overrun: Callable[[], None] | None = None,
        now: Callable[[], datetime.datetime] = wall_clock,
        chance: Chance = random.random,
        metrics: LeaderMetrics = UNMEASURED,
    ) -> None:
        if not lease_duration > renew_deadline > retry_period * JITTER > 0.0:
            raise ValueError("a lease outlasts the deadline for its renewal, and that several attempts")
        if not identity:
            raise ValueError("an empty holder means that nobody holds the lease")
        self.name = name
        self._lock = lock
        self._identity = identity
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._overrun = overrun
        self._now = now
        self._chance = chance
        self._metrics = metrics
        # The lease as last seen, and when that version of it was first seen. None: not seen, or not certain.
        self._seen: ObservedLease | None = None
        self._seen_at = 0.0
        # The last write went well, so what was seen is what is there: the next write need not look first.
        self._certain = False
        # When the last good renewal was sent. Before that, nobody can have seen it.
        self._renewed_at = 0.0
        self._leading = False
        metrics.leading(name, yes=False)

    @property
    def leading(self) -> bool:
        """The work runs and has not been told to stop."""
        return self._leading

    @property
    def leader(self) -> str:
        """Who holds the lease, as far as is known; empty: nobody."""
        return self._seen.record.holder if self._seen is not None else ""

    async def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for the lead, do `work`, give the lead back; ends as the work ends.

        Cancelled, it cancels the work, keeps the lease for as long as that takes to stop, and releases it then. Raises
        `LeadershipLost` when the lease is lost, after the work has stopped.
        """
        await self._acquire()
        worker = asyncio.create_task(work(), name=f"{self.name}-work")
        keeper = asyncio.create_task(self._keep(), name=f"{self.name}-lease")
        await self._lead(worker, keeper)

    async def _acquire(self) -> None:
        while (standing := await self._attempt()) is not Standing.OURS:
            wait = self._until_it_could_run_out() if standing is Standing.THEIRS else 0.0
            await asyncio.sleep(max(self._retry_period, wait) + self._retry_period * JITTER * self._chance())

    async def _lead(self, worker: asyncio.Task[None], keeper: asyncio.Task[None]) -> None:
        """See the work through to its end.

        1. Wait for the work to end, for the lease to be lost, or for being cancelled.
        2. If it was not the work that ended, tell it so, once, and wait for it, however long it takes.
        3. Release the lease, unless it is lost.
        4. Say how it went.
        """
        clock = asyncio.get_running_loop().time
        interrupted: asyncio.CancelledError | None = None
        lost = overrun = False
        self._lead_is(True)
        while not worker.done():
            if not lost and (keeper.done() or clock() >= self._renewed_at + self._renew_deadline):
                lost = True
                log.error("lost the lead", extra={"lease": self.name, "leader": self.leader})
                self._stop(worker)
            if lost and not overrun and clock() >= self._renewed_at + self._lease_duration:
                overrun = True
                self._run_over()
            limit = self._renewed_at + (self._lease_duration if lost else self._renew_deadline)
            try:
                await asyncio.wait(
                    {worker, keeper} if not keeper.done() else {worker},
                    timeout=max(0.0, limit - clock()) if not overrun else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            except asyncio.CancelledError as error:
                interrupted = error
                self._stop(worker)
        self._lead_is(False)
        await self._end(keeper)
        if not lost:
            await self._release()
        self._conclude(worker, lost=lost, interrupted=interrupted)

    def _stop(self, worker: asyncio.Task[None]) -> None:
        # Once: a second cancel would hit the work in the middle of its clean-up.
        if self._leading:
            self._lead_is(False)
            worker.cancel()

    async def _end(self, keeper: asyncio.Task[None]) -> None:
        # Bounded: a call that hangs in spite of being cancelled must not keep a process that lost from ending.
        keeper.cancel()
        await asyncio.wait({keeper}, timeout=self._retry_period)

    def _conclude(self, worker: asyncio.Task[None], *, lost: bool, interrupted: asyncio.CancelledError | None) -> None:
        failure = None if worker.cancelled() else worker.exception()
        if lost:
            raise LeadershipLost(
                f"{self.name}: the lease was not renewed in {self._renew_deadline:.0f} s, or is another's"
            ) from failure
        if interrupted is not None:
            if failure is not None:
                log.error("work failed while it was stopping", extra={"lease": self.name}, exc_info=failure)
            raise interrupted
        if worker.cancelled():
            raise RuntimeError(f"{self.name}: the work was cancelled by something that it waited for")
        if failure is not None:
            raise failure

    async def _keep(self) -> None:
        """Renew until the lease is seen to be another's. Whether renewals come in time is for `_lead` to watch."""
        while True:
            await asyncio.sleep(self._retry_period)
            if await self._attempt() is Standing.THEIRS:
                return

    async def _attempt(self) -> Standing:
        """Take the lease if it is free, renew it if it is ours. One may hang, and leaves time for another before the deadline."""
        try:
            async with asyncio.timeout(self._renew_deadline / 2):
                return await self._take_or_renew()
        except Exception as error:  # the edge: whatever a lock may raise, the next attempt looks afresh
            self._certain = False
            log.warning("an attempt at the lease failed", extra={"lease": self.name, "error": f"{type(error).__name__}: {error}"})
            return Standing.UNKNOWN

    async def _take_or_renew(self) -> Standing:
        if not self._certain:
            self._observe(await self._lock.get())
        if self._held_by_another():
            return Standing.THEIRS
        clock = asyncio.get_running_loop().time
        record = self._next_record()
        sent_at = clock()
        if self._seen is None:
            written = await self._lock.create(record)
        else:
            written = await self._lock.update(record, version=self._seen.version)
        self._observe(written)
        self._renewed_at = sent_at
        self._certain = True
        return Standing.OURS

    def _observe(self, lease: ObservedLease | None) -> None:
        if lease is None or self._seen is None or lease.version != self._seen.version:
            self._seen_at = asyncio.get_running_loop().time()
        self._seen = lease

    def _held_by_another(self) -> bool:
        if self._seen is None or self._seen.record.holder in ("", self._identity):
            return False
        return asyncio.get_running_loop().time() < self._seen_at + self._seen.record.duration

    def _until_it_could_run_out(self) -> float:
        assert self._seen is not None, "nobody can hold a lease that was not seen"
        return self._seen_at + self._seen.record.duration - asyncio.get_running_loop().time()

    def _next_record(self) -> LeaseRecord:
        now = self._now()
        before = self._seen.record if self._seen is not None else None
        ours = before is not None and before.holder == self._identity
        return LeaseRecord(
            holder=self._identity,
            duration=self._lease_duration,
            acquired=before.acquired if before is not None and ours else now,
            renewed=now,
            transitions=before.transitions + (not ours) if before is not None else 0,
        )

    async def _release(self) -> None:
        """Say that nobody holds the lease, so that others need not wait. If that fails, they wait."""
        try:
            async with asyncio.timeout(self._renew_deadline / 2):
                lease = await self._lock.get()
                if lease is None or lease.record.holder != self._identity:
                    return
                now = self._now()
                free = LeaseRecord(holder="", duration=1.0, acquired=now, renewed=now, transitions=lease.record.transitions)
                self._observe(await self._lock.update(free, version=lease.version))
        except Exception as error:  # the edge
            log.warning("could not release the lease", extra={"lease": self.name, "error": f"{type(error).__name__}: {error}"})

    def _run_over(self) -> None:
        log.critical("the lead is lost, others may have it, and the work has not stopped", extra={"lease": self.name})
        if self._overrun is not None:
            self._overrun()

    def _lead_is(self, leading: bool) -> None:
        if leading != self._leading:
            log.info("leading" if leading else "leading no more", extra={"lease": self.name})
            self._leading = leading
            self._metrics.leading(self.name, yes=leading)
