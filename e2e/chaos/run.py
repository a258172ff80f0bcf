"""One run: faults strike while programs write, then quiet, then judgement.

1. Up: a cluster, dynvol, two steady pods that write into two steady claims each. What dynvol holds is measured.
2. Faults strike, guests come and go, as the schedule says.
3. Quiet, until nothing is wrong any more or patience is over.
4. The guests leave. Nothing may be left of them, and dynvol may hold no more than before.
5. All pods and claims go. Nothing at all may be left.

What is still wrong when patience is over is called wrong. Patience is for all three together, so a run ends in time on any machine.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from e2e.chaos import guests, schedule
from e2e.chaos.faults import FAULTS, Fault, NoTarget
from e2e.chaos.footprint import Footprint, footprint, grown
from e2e.chaos.guests import Guests
from e2e.chaos.judge import Judge
from e2e.chaos.recovery import Touched
from e2e.chaos.report import MEASURED, Findings, Tally, table, zeros
from e2e.chaos.schedule import Stroke
from e2e.chaos.watch import Watch
from e2e.chaos.world import World, world

PATIENCE = 300.0
"""Seconds of quiet, in all, after which what is still wrong is called wrong."""
START = 180.0
"""Seconds until all is well at the beginning."""
SHORTEST = 10.0
"""Seconds of quiet before each judgement that patience leaves in any case."""
RARELY = 8.0
"""Seconds between faults, at most."""
PROOF = 30.0
"""Seconds between looks at what has come into the buckets."""
GUESTS_EVERY = 5.0
AIM = 10.0
"""Seconds for which a fault looks for something to strike: what the last one broke may not be back yet."""


class Run:
    """`keep`: where logs and ledgers are copied to before the cluster goes."""

    def __init__(
        self,
        state: Path,
        *,
        seconds: float,
        seed: str,
        every: float = 0.0,
        patience: float = PATIENCE,
        only: Sequence[str] = (),
        keep: Path | None = None,
    ) -> None:
        self._state, self._keep, self._patience = state, keep, patience
        self._seconds, self._seed = seconds, seed
        self._faults = {fault.kind.name: fault for fault in FAULTS if not only or fault.kind.name in only}
        pace = every or min(RARELY, seconds / len(self._faults))
        kinds = [fault.kind for fault in self._faults.values()]
        self.strokes = schedule.draw(kinds, seed=f"{seed}/faults", seconds=seconds, every=pace)
        self.visits = schedule.draw(guests.KINDS, seed=f"{seed}/guests", seconds=seconds, every=GUESTS_EVERY)
        self.tallies = {name: Tally() for name in self._faults}
        self._lanes: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._measuring: set[asyncio.Task[None]] = set()

    def described(self) -> list[str]:
        both = sorted((*self.strokes, *self.visits), key=lambda stroke: stroke.at)
        return [f"{s.at:8.2f} s  {s.kind:28} for {s.hold:5.2f} s  target {s.pick:.4f}" for s in both]

    async def carry_out(self) -> bool:
        """Prints what it does and what it found. Whether all that must be zero is."""
        async with world(self._state) as there:
            try:
                findings = await self._in(there)
            finally:
                if self._keep is not None:
                    await asyncio.to_thread(_save, self._state, self._keep)
        print("\n".join(["", *table(self.tallies), "", *MEASURED, "", *zeros(findings), *findings.told()]), flush=True)
        return findings.clean

    async def _in(self, there: World) -> Findings:
        watch = Watch(there)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(watch.run(), name="watch"), tasks.create_task(_prove(there), name="prove")]
            before = await self._begin(there, watch)
            visitors = Guests(there)
            async with asyncio.TaskGroup() as recoveries:
                await self._strike(there, watch, visitors, recoveries)
                say("quiet from now on")
                over = time.monotonic() + self._patience
                findings = await _settled(Judge(there), "after the faults", until=over)
                # Nothing is wrong any more, or never will be.
                for task in self._measuring:
                    task.cancel()
            await self._judge(there, visitors, before, findings, until=over)
            for task in background:
                task.cancel()
        return findings

    async def _begin(self, there: World, watch: Watch) -> Footprint:
        await there.furnish()
        await there.start_steady_pods()
        try:
            async with asyncio.timeout(START):
                await watch.all_is_well()
        except TimeoutError:
            raise AssertionError(f"chaos cannot begin: {watch.problems()}") from None
        say(f"all is well; {len(self.strokes)} faults will strike within {self._seconds:.0f} s, seed {self._seed}")
        return await footprint(there)

    # --- Faults

    async def _strike(self, there: World, watch: Watch, visitors: Guests, recoveries: asyncio.TaskGroup) -> None:
        """Ends when all is healed. What takes the measure of recoveries goes on in a group of its own."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as strikes:
            for stroke in sorted((*self.strokes, *self.visits), key=lambda each: each.at):
                await asyncio.sleep(max(0.0, began + stroke.at - time.monotonic()))
                fault = self._faults.get(stroke.kind)
                work = self._suffer(fault, stroke, there, watch, recoveries) if fault else self._visit(visitors, stroke)
                strikes.create_task(work, name=stroke.kind)
            await asyncio.sleep(max(0.0, began + self._seconds - time.monotonic()))

    async def _visit(self, visitors: Guests, stroke: Stroke) -> None:
        """One after another, as the schedule has them."""
        async with self._lanes["guests"]:
            await visitors.act(stroke)

    async def _suffer(self, fault: Fault, stroke: Stroke, there: World, watch: Watch, recoveries: asyncio.TaskGroup) -> None:
        tally = self.tallies[fault.kind.name]
        try:
            async with self._lanes[fault.kind.lane]:
                before = watch.last
                async with _aimed(fault, there, stroke) as touched:
                    say(f"{fault.kind.name}, for {stroke.hold:.1f} s")
                    tally.struck += 1
                    await asyncio.sleep(stroke.hold)
        except NoTarget:
            tally.missed += 1
            return
        recovered = watch.recovered(touched, since=time.monotonic(), before=before)
        task = recoveries.create_task(_measured(recovered, tally), name=f"recovery: {fault.kind.name}")
        self._measuring.add(task)
        task.add_done_callback(self._measuring.discard)

    # --- Judgement

    async def _judge(self, there: World, visitors: Guests, before: Footprint, findings: Findings, *, until: float) -> None:
        judge = Judge(there)
        await visitors.leave()
        findings.merge(await _settled(judge, "without the guests", until=until))
        findings.add("leaked threads, file descriptors, tasks", [*grown(before, await footprint(there))])
        await there.clear()
        findings.merge(await _settled(judge, "without pods and claims", until=until))


@asynccontextmanager
async def _aimed(fault: Fault, there: World, stroke: Stroke) -> AsyncIterator[Touched]:
    """The fault, as soon as it finds a target. Raises NoTarget if it finds none in time."""
    async with AsyncExitStack() as inflicted:
        over = time.monotonic() + AIM
        while True:
            try:
                touched = await inflicted.enter_async_context(fault.inflict(there, stroke))
                break
            except NoTarget:
                if time.monotonic() > over:
                    raise
                await asyncio.sleep(0.5)
        yield touched


async def _measured(recovered: Awaitable[float | None], tally: Tally) -> None:
    seconds = await recovered
    if seconds is not None:
        tally.recoveries.append(seconds)


async def _settled(judge: Judge, when: str, *, until: float) -> Findings:
    """What is still wrong when patience is over; nothing as soon as nothing is."""
    began = time.monotonic()
    lasted: list[str] = []
    while True:
        findings = await judge.problems(since=began)
        now = time.monotonic()
        if findings.clean or now > max(until, began + SHORTEST):
            word = "nothing" if findings.clean else "something"
            told = [f"  the last: {line.strip()}" for line in lasted[:3]] if findings.clean else findings.told()
            say("\n".join([f"{when}: {word} is wrong after {now - began:.1f} s", *told]))
            return findings
        lasted = findings.told()
        await asyncio.sleep(1)


async def _prove(there: World) -> None:
    """For ever: what is seen to be in the buckets need not be looked for at the end."""
    while True:
        await asyncio.sleep(PROOF)
        before = time.monotonic() - PROOF
        found = there.ledger.proven(await asyncio.to_thread(there.buckets.digests), before=before)
        await asyncio.to_thread(there.buckets.remove, found)


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def _save(state: Path, kept: Path) -> None:
    """The cluster's folder goes with it; what tells of it stays."""
    for pattern in ("run/*.log", "ledger/*", "nodes/*/kubelet.log", "nodes/*/logs/**/*.log", "apiserver.db*"):
        for file in state.glob(pattern):
            place = kept / file.relative_to(state)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
