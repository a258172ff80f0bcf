from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from dynvol.runtime.errors import LeadershipLost
from dynvol.runtime.leader import LeaderElector, LeaseRecord, ObservedLease

from .measured import Measured
from .tasks import cancelled, pass_time, running, settle

pytestmark = pytest.mark.looptime

EPOCH = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


class Refused(Exception):
    """Whatever a client raises."""


class Lease:
    """The lease in the API: one object, whose writes are compared and swapped."""

    def __init__(self) -> None:
        self.stored: ObservedLease | None = None
        self._version = 0
        self.history: list[tuple[float, str]] = []

    def write(self, record: LeaseRecord) -> ObservedLease:
        self._version += 1
        self.stored = ObservedLease(record, str(self._version))
        self.history.append((now(), record.holder))
        return self.stored

    @property
    def holder(self) -> str:
        return self.stored.record.holder if self.stored is not None else ""

    @property
    def record(self) -> LeaseRecord:
        assert self.stored is not None
        return self.stored.record


@dataclass
class Door:
    """One candidate's way to the lease, which may be shut or stuck. Implements `dynvol.runtime.leader.LeaseLock`."""

    lease: Lease
    shut: bool = False
    stuck: bool = False
    swallows_cancel: bool = False
    loses_answers: bool = False
    delay: float = 0.0
    calls: list[str] = field(default_factory=list)

    async def get(self) -> ObservedLease | None:
        await self._pass("get")
        return self.lease.stored

    async def create(self, record: LeaseRecord) -> ObservedLease:
        await self._pass("create")
        if self.lease.stored is not None:
            raise Refused("already exists")
        return await self._answer(self.lease.write(record))

    async def update(self, record: LeaseRecord, *, version: str) -> ObservedLease:
        await self._pass("update")
        if self.lease.stored is None or self.lease.stored.version != version:
            raise Refused("conflict")
        return await self._answer(self.lease.write(record))

    async def _pass(self, call: str) -> None:
        self.calls.append(call)
        await asyncio.sleep(self.delay)
        if self.shut:
            raise Refused("connection refused")
        while self.stuck:
            try:
                await asyncio.sleep(10_000)
            except asyncio.CancelledError:
                if not self.swallows_cancel:
                    raise

    async def _answer(self, written: ObservedLease) -> ObservedLease:
        if self.loses_answers:
            raise Refused("connection reset")
        return written


class Work:
    """Work that remembers when it was at it. It may take its time to stop, or fail, or come to an end."""

    def __init__(self, *, takes: float = 10_000.0, stops_in: float = 0.0, fails: Exception | None = None) -> None:
        self.takes = takes
        self.stops_in = stops_in
        self.fails = fails
        self.spans: list[tuple[float, float]] = []
        self.running = False
        self.cancels = 0

    async def __call__(self) -> None:
        began = now()
        self.running = True
        try:
            await asyncio.sleep(self.takes)
            if self.fails is not None:
                raise self.fails
        except asyncio.CancelledError:
            self.cancels += 1
            await self._clean_up()
            raise
        finally:
            self.running = False
            self.spans.append((began, now()))

    async def _clean_up(self) -> None:
        try:
            await asyncio.sleep(self.stops_in)
        except asyncio.CancelledError:
            self.cancels += 1
            raise


def now() -> float:
    return asyncio.get_running_loop().time()


def a_candidate(door: Door, identity: str = "me", *, skew: float = 0.0, **more: Any) -> LeaderElector:
    def wall() -> datetime.datetime:
        return EPOCH + datetime.timedelta(seconds=now() + skew)

    return LeaderElector(door, name="dynvol", identity=identity, now=wall, chance=lambda: 0.0, **more)


def an_old_lease(holder: str = "other", *, renewed: datetime.datetime = EPOCH) -> Lease:
    lease = Lease()
    lease.write(LeaseRecord(holder=holder, duration=15.0, acquired=renewed, renewed=renewed, transitions=3))
    return lease


# Taking the lead


async def test_the_first_candidate_makes_the_lease_and_leads() -> None:
    lease, work = Lease(), Work()
    elector = a_candidate(Door(lease))
    async with running(elector.run(work)):
        await settle()
        assert work.running
        assert elector.leading
        assert (lease.holder, lease.record.duration, lease.record.transitions) == ("me", 15.0, 0)


async def test_the_lease_is_renewed_every_two_seconds() -> None:
    lease = Lease()
    async with running(a_candidate(Door(lease)).run(Work())):
        await pass_time(60)
        assert [at for at, _ in lease.history] == pytest.approx([2.0 * n for n in range(30)], abs=0.1)
        assert (lease.record.acquired, lease.record.renewed) == (EPOCH, EPOCH + datetime.timedelta(seconds=58))


async def test_only_one_of_many_leads() -> None:
    lease = Lease()
    works = [Work() for _ in range(5)]
    electors = [a_candidate(Door(lease, delay=0.01 * n), f"candidate {n}") for n in range(5)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(elector.run(work)) for elector, work in zip(electors, works, strict=True)]
        await pass_time(120)
        assert sum(work.running for work in works) == 1
        assert {elector.leader for elector in electors} == {lease.holder}
        for task in tasks:
            task.cancel()


async def test_a_lease_that_nobody_renews_is_taken_after_its_duration_on_the_local_clock() -> None:
    lease, work = an_old_lease(), Work()
    async with running(a_candidate(Door(lease)).run(work)):
        await pass_time(14.9)
        assert not work.running
        await pass_time(3)
        assert work.running
        assert (lease.holder, lease.record.transitions) == ("me", 4)


@pytest.mark.parametrize("skew", [-1e7, -20.0, 20.0, 1e7])
async def test_a_wrong_wall_clock_neither_hastens_nor_delays_it(skew: float) -> None:
    lease, work = an_old_lease(renewed=EPOCH + datetime.timedelta(seconds=skew)), Work()
    async with running(a_candidate(Door(lease), skew=-skew).run(work)):
        await pass_time(14.9)
        assert not work.running
        await pass_time(3)
        assert work.running


@pytest.mark.parametrize("skew", [-1e7, 1e7])
async def test_a_leader_with_a_wrong_clock_keeps_the_lead(skew: float) -> None:
    lease, mine, theirs = Lease(), Work(), Work()
    async with running(a_candidate(Door(lease), "skewed", skew=skew).run(mine)):
        await settle()
        async with running(a_candidate(Door(lease), "other").run(theirs)):
            await pass_time(300)
            assert (mine.running, theirs.spans, theirs.running) == (True, [], False)


async def test_each_renewal_that_is_seen_starts_the_wait_anew() -> None:
    lease, work = an_old_lease(), Work()
    async with running(a_candidate(Door(lease)).run(work)):
        await pass_time(10)
        lease.write(lease.record)
        await pass_time(19)
        assert not work.running
        await pass_time(2)
        assert work.running


async def test_a_candidate_looks_again_when_the_lease_that_it_saw_could_have_run_out_and_no_sooner() -> None:
    leader, candidate = Work(), Door(lease := Lease())
    async with running(a_candidate(Door(lease), "leader").run(leader)):
        await settle()
        async with running(a_candidate(candidate).run(Work())):
            await pass_time(150)
            assert leader.running
            assert candidate.calls == ["get"] * 11


async def test_where_there_are_many_candidates_one_of_them_misses_the_leader_soon() -> None:
    chance = random.Random(1)
    lease, works = an_old_lease(), [Work() for _ in range(30)]
    electors = [LeaderElector(Door(lease), name="dynvol", identity=f"c{n}", chance=chance.random) for n, _ in enumerate(works)]
    async with asyncio.TaskGroup() as group:
        tasks = []
        for elector, work in zip(electors, works, strict=True):
            # The old leader lives on while they come, one after the other.
            lease.write(lease.record)
            tasks.append(group.create_task(elector.run(work)))
            await pass_time(0.5)
        await pass_time(15.0)
        assert not any(work.running for work in works)
        await pass_time(3.0)
        assert sum(work.running for work in works) == 1
        for task in tasks:
            task.cancel()


async def test_a_lease_that_was_released_is_taken_at_the_next_look() -> None:
    lease, work = an_old_lease(holder=""), Work()
    async with running(a_candidate(Door(lease)).run(work)):
        await settle()
        assert work.running


async def test_a_candidate_that_cannot_reach_the_lease_goes_on_trying() -> None:
    lease, work = Lease(), Work()
    door = Door(lease, shut=True)
    async with running(a_candidate(door).run(work)):
        await pass_time(60)
        assert not work.running
        door.shut = False
        await pass_time(3)
        assert work.running


async def test_a_write_that_was_made_but_not_answered_is_recognised_as_our_own() -> None:
    lease, work = Lease(), Work()
    door = Door(lease, loses_answers=True)
    async with running(a_candidate(door).run(work)):
        await settle()
        assert (lease.holder, work.running) == ("me", False)
        door.loses_answers = False
        await pass_time(3)
        assert work.running
        assert lease.record.transitions == 0


# Losing it


async def test_a_leader_that_cannot_renew_stops_before_anyone_else_may_start() -> None:
    lease, mine, theirs = Lease(), Work(), Work()
    door = Door(lease)
    async with running(lost(a_candidate(door).run(mine))):
        await pass_time(4.5)
        door.shut = True
        async with running(a_candidate(Door(lease), "other").run(theirs)):
            await pass_time(60)
            assert theirs.running
    ((_, ended),) = mine.spans
    last_renewal = max(at for at, holder in lease.history if holder == "me")
    first_of_theirs = min(at for at, holder in lease.history if holder == "other")
    assert ended == pytest.approx(last_renewal + 10.0, abs=0.1)
    assert first_of_theirs >= last_renewal + 15.0


async def test_a_leader_counts_from_when_it_sent_its_renewal_and_not_from_the_answer() -> None:
    work = Work()
    door = Door(Lease(), delay=2.0)
    async with running(lost(a_candidate(door).run(work))):
        await pass_time(4.1)
        assert work.running
        door.shut = True
        await pass_time(30)
    # Looked at 0, sent at 2, answered at 4.
    ((_, ended),) = work.spans
    assert ended == pytest.approx(12.0, abs=0.1)


async def lost(run: Any) -> None:
    with pytest.raises(LeadershipLost):
        await run


async def test_losing_the_lead_is_raised_after_the_work_has_stopped() -> None:
    lease, work = Lease(), Work(stops_in=3.0)
    door = Door(lease)
    elector = a_candidate(door)
    async with running(lost(elector.run(work))) as run:
        await settle()
        door.shut = True
        await pass_time(11)
        assert (elector.leading, work.running, run.done()) == (False, True, False)
        await pass_time(5)
        assert (work.running, run.done()) == (False, True)


async def test_a_renewal_that_hangs_is_given_up_and_tried_anew() -> None:
    lease, work = Lease(), Work()
    door = Door(lease)
    elector = a_candidate(door)
    async with running(elector.run(work)):
        await pass_time(1)
        door.stuck = True
        await pass_time(3)
        door.stuck = False
        await pass_time(60)
        assert elector.leading
        assert work.running


@pytest.mark.parametrize("swallows_cancel", [False, True])
async def test_renewals_that_all_hang_cost_the_lead_in_time(swallows_cancel: bool) -> None:
    lease, work = Lease(), Work()
    door = Door(lease, swallows_cancel=swallows_cancel)
    async with running(lost(a_candidate(door).run(work))) as run:
        await pass_time(1)
        door.stuck = True
        await pass_time(15)
        assert run.done()
    ((_, ended),) = work.spans
    assert ended == pytest.approx(10.0, abs=0.1)
    door.swallows_cancel = False
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        await cancelled(task)


async def test_a_lease_seen_in_other_hands_is_lost_at_once() -> None:
    lease, work = Lease(), Work()
    async with running(lost(a_candidate(Door(lease)).run(work))) as run:
        await pass_time(3)
        lease.write(LeaseRecord(holder="usurper", duration=15.0, acquired=EPOCH, renewed=EPOCH))
        await pass_time(5)
        assert run.done()
        assert not work.running
    assert lease.holder == "usurper"


async def test_a_lease_that_somebody_deleted_is_made_again() -> None:
    lease, work = Lease(), Work()
    async with running(a_candidate(Door(lease)).run(work)):
        await pass_time(3)
        lease.stored = None
        await pass_time(60)
        assert (work.running, lease.holder) == (True, "me")


async def test_work_that_still_runs_when_others_may_lead_is_reported_once() -> None:
    overruns: list[float] = []
    lease, work = Lease(), Work(stops_in=60.0)
    door = Door(lease)
    elector = a_candidate(door, overrun=lambda: overruns.append(now()))
    async with running(lost(elector.run(work))) as run:
        await settle()
        door.shut = True
        await pass_time(20)
        # It looks again, and finds nothing new.
        run.cancel()
        await pass_time(80)
    assert overruns == pytest.approx([15.0], abs=0.1)
    assert work.cancels == 1


# Giving it back


async def test_the_lease_is_released_after_the_work_has_stopped_and_kept_until_then() -> None:
    lease, mine, theirs = Lease(), Work(stops_in=40.0), Work()
    elector = a_candidate(Door(lease))
    async with running(elector.run(mine)) as run:
        await pass_time(5)
        async with running(a_candidate(Door(lease), "other").run(theirs)):
            run.cancel()
            await pass_time(39)
            assert not elector.leading
            assert (mine.running, theirs.running, lease.holder) == (True, False, "me")
            await pass_time(15)
            assert run.cancelled()
            assert theirs.running
    assert theirs.spans[0][0] >= mine.spans[0][1]
    # At the next look, not a lease's duration after the last renewal.
    assert theirs.spans[0][0] == pytest.approx(50.0, abs=0.1)


async def test_work_that_is_told_to_stop_is_told_once() -> None:
    work = Work(stops_in=30.0)
    door = Door(Lease())
    async with running(lost(a_candidate(door).run(work))) as run:
        await settle()
        run.cancel()
        door.shut = True
        await pass_time(12)
        run.cancel()
        await pass_time(60)
    assert work.cancels == 1


async def test_work_that_is_done_gives_the_lead_back() -> None:
    lease, work = Lease(), Work(takes=5.0)
    await a_candidate(Door(lease)).run(work)
    assert now() == pytest.approx(5.0, abs=0.1)
    assert lease.holder == ""


async def test_work_that_fails_gives_the_lead_back_and_its_error_on() -> None:
    lease, work = Lease(), Work(takes=5.0, fails=ValueError("oops"))
    with pytest.raises(ValueError, match="oops"):
        await a_candidate(Door(lease)).run(work)
    assert lease.holder == ""


async def test_work_whose_own_task_was_cancelled_is_an_error_and_not_a_cancellation() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled"):
        await a_candidate(Door(Lease())).run(work)


async def test_a_lease_that_cannot_be_released_delays_nobody_here() -> None:
    door, work = Door(Lease()), Work()
    async with running(a_candidate(door).run(work)) as run:
        await settle()
        door.stuck = True
        run.cancel()
        await pass_time(8)
        assert run.cancelled()


async def test_another_holders_lease_is_not_released() -> None:
    lease, work = Lease(), Work(takes=3.0)
    door = Door(lease)
    async with running(a_candidate(door).run(work)) as run:
        await pass_time(2.5)
        lease.write(LeaseRecord(holder="usurper", duration=15.0, acquired=EPOCH, renewed=EPOCH))
        await run
    assert lease.holder == "usurper"


async def test_a_candidate_that_is_cancelled_while_it_waits_leaves_the_lease_alone() -> None:
    lease, work = an_old_lease(), Work()
    async with running(a_candidate(Door(lease)).run(work)) as run:
        await pass_time(5)
        await cancelled(run)
    assert (lease.holder, work.spans) == ("other", [])


async def test_whoever_leads_says_so() -> None:
    measured = Measured()
    await a_candidate(Door(Lease()), metrics=measured).run(Work(takes=5.0))
    assert measured.led == [False, True, False]


@pytest.mark.parametrize(
    "wrong",
    [{"lease_duration": 10.0}, {"renew_deadline": 2.0}, {"retry_period": 0.0}, {"identity": ""}],
)
def test_settings_that_cannot_keep_two_from_leading_are_refused(wrong: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"name": "dynvol", "identity": "me", **wrong}
    with pytest.raises(ValueError):
        LeaderElector(Door(Lease()), **settings)


# All of it together


async def test_two_never_lead_at_a_time_whatever_happens_to_their_connections() -> None:
    """Candidates come back after a loss, as processes do; connections break, hang and heal; nobody's work overlaps another's."""
    chance = random.Random(3)
    lease = Lease()
    doors = [Door(lease, delay=0.05) for _ in range(3)]
    works = [Work(stops_in=3.0) for _ in doors]

    async def process(door: Door, work: Callable[[], Awaitable[None]], identity: str) -> None:
        while True:
            try:
                await a_candidate(door, identity).run(work)  # type: ignore[arg-type]
            except LeadershipLost:
                await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(process(door, work, f"p{n}")) for n, (door, work) in enumerate(zip(doors, works, strict=True))]
        for _ in range(400):
            door = chance.choice(doors)
            door.shut, door.stuck, door.loses_answers = (chance.random() < 0.3 for _ in range(3))
            await pass_time(chance.random() * 10)
            assert sum(work.running for work in works) <= 1
        for door in doors:
            door.shut = door.stuck = door.loses_answers = False
        for task in tasks:
            task.cancel()
    spans = sorted(span for work in works for span in work.spans)
    assert len(spans) > 10
    assert all(ended <= began for (_, ended), (began, _) in zip(spans, spans[1:], strict=False))
