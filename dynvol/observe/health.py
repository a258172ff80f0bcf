"""Whether this process is alive, and whether it does its work.

Two questions with different consequences. *Alive* is asked by kubelet, which restarts the process on a no: so only what a restart
would mend belongs there, and an API server that is away does not. *Ready* is asked by rollouts and by people, and tells the truth:
with the API away a node process is not ready, although every mount goes on working.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

Check: TypeAlias = Callable[[], Awaitable[None] | None]
"""Returns if all is well, else raises; the exception's text is shown to whoever asks. May be slow, and is then a failure."""

DEADLINE: Final = 3.0
"""Seconds for all checks of one answer. Kubelet waits for as long as its probe's `timeoutSeconds` says; config/ says 5."""


class Unwell(Exception):
    """A check's way to say what is wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    problem: str = ""
    """Empty if there is none."""


@dataclass(frozen=True, slots=True)
class Report:
    findings: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        return not any(f.problem for f in self.findings)

    def text(self, question: str, *, verbose: bool) -> str:
        """As the API server's own endpoints put it: `ok`, or a line for each check."""
        if self.well and not verbose:
            return "ok"
        lines = [f"[-]{f.name} failed: {f.problem}" if f.problem else f"[+]{f.name} ok" for f in self.findings]
        return "\n".join((*lines, f"{question} check {'passed' if self.well else 'failed'}"))


class Checks:
    """Named checks behind one question. A check that hangs is reported and not started a second time while it does."""

    def __init__(self, *, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._checks: dict[str, Check] = {}
        self._running: dict[str, asyncio.Task[str]] = {}

    def add(self, name: str, check: Check) -> None:
        if name in self._checks:
            raise ValueError(f"there is a check {name} already")
        self._checks[name] = check

    async def report(self) -> Report:
        running = {name: self._run(name, check) for name, check in self._checks.items()}
        if running:
            await asyncio.wait(running.values(), timeout=self._deadline)
        return Report(tuple(Finding(name, task.result() if task.done() else "no answer in time") for name, task in running.items()))

    async def aclose(self) -> None:
        """Ends the checks that hang."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _run(self, name: str, check: Check) -> asyncio.Task[str]:
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(_problem(check), name=f"check {name}")
            task.add_done_callback(lambda _: self._running.pop(name, None))
        return task


async def _problem(check: Check) -> str:
    try:
        waiting = check()
        if inspect.isawaitable(waiting):
            await waiting
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


class Health:
    """The two questions of one process."""

    def __init__(self) -> None:
        self.alive: Final = Checks()
        self.ready: Final = Checks()
        self._draining = False
        self.ready.add("shutdown", self._not_draining)

    def drain(self) -> None:
        """From now on: alive, and not ready. Whoever sends work here should stop."""
        self._draining = True

    def _not_draining(self) -> None:
        if self._draining:
            raise Unwell("the process is shutting down")

    async def aclose(self) -> None:
        await self.alive.aclose()
        await self.ready.aclose()


def running(task: asyncio.Task[object]) -> Check:
    """A check that an endless task has not ended."""

    def check() -> None:
        if task.done():
            raise Unwell(f"{task.get_name()} has ended")

    return check


def holds(condition: Callable[[], bool], problem: str) -> Check:
    """A check that `condition` is true; `problem` is what to say where it is not."""

    def check() -> None:
        if not condition():
            raise Unwell(problem)

    return check
