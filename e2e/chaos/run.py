"""One run: faults strike while programs write, then quiet, then judgement.

1. Up: a cluster, dynvol, two steady pods that write into two steady claims each. What dynvol holds is measured.
2. Faults strike, guests come and go, as the schedule says.
3. Quiet, until nothing is wrong any more or patience is over.
4. The guests leave. Nothing may be left of them, and dynvol may hold no more than before.
5. All pods and claims go. Nothing at all may be left.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from e2e.chaos import guests, schedule
from e2e.chaos.faults import FAULTS, Fault, NoTarget
from e2e.chaos.footprint import Footprint, footprint, grown
from e2e.chaos.guests import Guests
from e2e.chaos.judge import Judge
from e2e.chaos.report import Findings, Tally, table, zeros
from e2e.chaos.schedule import Stroke
from e2e.chaos.watch import Watch
from e2e.chaos.world import World, world

PATIENCE = 180.0
"""Seconds of quiet after which what is still wrong is called wrong."""
START = 180.0
"""Seconds until all is well at the beginning."""
RARELY = 8.0
"""Seconds between faults, at most."""
PROOF = 30.0
"""Seconds between looks at what has come into the buckets."""
GUESTS_EVERY = 5.0


class Run:
    """`keep`: where logs and ledgers are copied to before the cluster goes."""

    def __init__(
        self, state: Path, *, seconds: float, seed: str, every: float = 0.0, only: Sequence[str] = (), keep: Path | None = None
    ) -> None:
        self._state, self._keep = state, keep
        self._seconds, self._seed = seconds, seed
        self._faults = {fault.kind.name: fault for fault in FAULTS if not only or fault.kind.name in only}
        pace = every or min(RARELY, seconds / len(self._faults))
        kinds = [fault.kind for fault in self._faults.values()]
        self.strokes = schedule.draw(kinds, seed=f"{seed}/faults", seconds=seconds, every=pace)
        self.visits = schedule.draw(guests.KINDS, seed=f"{seed}/guests", seconds=seconds, every=GUESTS_EVERY)
        self.tallies = {name: Tally() for name in self._faults}
        self._lanes: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._inflicted = self._present = 0
        """Faults that have struck, and those that are not healed."""

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
        print("\n".join(["", *table(self.tallies), "", *zeros(findings)]), flush=True)
        return findings.clean

    async def _in(self, there: World) -> Findings:
        watch = Watch(there)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run(), name="watch")
            proving = tasks.create_task(_prove(there), name="prove")
            before = await self._begin(there, watch)
            visitors = Guests(there)
            await self._strike(there, watch, visitors)
            findings = await self._judge(there, visitors, before)
            for task in (watching, proving):
                task.cancel()
        return findings

    async def _begin(self, there: World, watch: Watch) -> Footprint:
        await there.furnish()
        await there.start_steady_pods()
        try:
            async with asyncio.timeout(START):
                await watch.well_since(time.monotonic())
        except TimeoutError:
            raise AssertionError(f"chaos cannot begin: {watch.problem or watch.silent_since(0)}") from None
        say(f"all is well; {len(self.strokes)} faults will strike within {self._seconds:.0f} s, seed {self._seed}")
        return await footprint(there)

    # --- Faults

    async def _strike(self, there: World, watch: Watch, visitors: Guests) -> None:
        """Ends when all is well again after each."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as strikes:
            for stroke in sorted((*self.strokes, *self.visits), key=lambda each: each.at):
                await asyncio.sleep(max(0.0, began + stroke.at - time.monotonic()))
                fault = self._faults.get(stroke.kind)
                work = self._suffer(fault, stroke, there, watch) if fault else self._visit(visitors, stroke)
                strikes.create_task(work, name=stroke.kind)
            await asyncio.sleep(max(0.0, began + self._seconds - time.monotonic()))
            say("quiet from now on")

    async def _visit(self, visitors: Guests, stroke: Stroke) -> None:
        """One after another, as the schedule has them."""
        async with self._lanes["guests"]:
            await visitors.act(stroke)

    async def _suffer(self, fault: Fault, stroke: Stroke, there: World, watch: Watch) -> None:
        tally = self.tallies[fault.kind.name]
        self._inflicted += 1
        self._present += 1
        try:
            async with self._lanes[fault.kind.lane], fault.inflict(there, stroke):
                say(f"{fault.kind.name}, for {stroke.hold:.1f} s")
                tally.struck += 1
                await asyncio.sleep(stroke.hold)
        except NoTarget:
            tally.missed += 1
            return
        finally:
            self._present -= 1
        healed, inflicted, alone = time.monotonic(), self._inflicted, not self._present
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                recovery = await watch.well_since(healed)
                if alone and inflicted == self._inflicted:
                    tally.recoveries.append(recovery)

    # --- Judgement

    async def _judge(self, there: World, visitors: Guests, before: Footprint) -> Findings:
        judge = Judge(there)
        findings = await _settled(judge, "after the faults")
        await visitors.leave()
        findings.merge(await _settled(judge, "without the guests"))
        findings.add("leaked threads, file descriptors, tasks", [*grown(before, await footprint(there))])
        await there.clear()
        findings.merge(await _settled(judge, "without pods and claims"))
        return findings


async def _settled(judge: Judge, when: str) -> Findings:
    """What is still wrong when patience is over; nothing as soon as nothing is."""
    began = time.monotonic()
    while True:
        findings = await judge.problems(since=began)
        seconds = time.monotonic() - began
        if findings.clean or seconds > PATIENCE:
            say(
                "\n".join(
                    [f"{when}: {'nothing' if findings.clean else 'something'} is wrong after {seconds:.1f} s", *findings.told()]
                )
            )
            return findings
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
