"""What is measured, each in a process of its own, and the talk with it.

A program is a module of this package. It says `READY` in a line when it is, does its work, and at the end of its input prints its
figures as one line of JSON. It imports no more than it must: what a process weighs is among the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

PROJECT = Path(__file__).resolve().parents[3]
READY = "ready"

T = TypeVar("T")
_LINE = 64 << 20


def environment() -> dict[str, str]:
    """Nothing of ours that could lead TLS or Python astray."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}


# --- From within


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def tell(**figures: Any) -> None:
    say(json.dumps(figures))


async def lines() -> AsyncIterator[str]:
    """The input, line by line."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line.decode().rstrip("\n")


def cpu_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def most_memory() -> float:
    """MiB that were resident at most since this program began. `ru_maxrss` would tell of whoever started it, too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


# --- From outside


@dataclass(frozen=True, slots=True)
class Program:
    """One that runs."""

    process: asyncio.subprocess.Process
    said: list[str] = field(default_factory=list)
    """What it said before it was ready."""

    async def heard(self) -> str:
        """The next line. Raises RuntimeError where there is none."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a measured program ended with {await self.process.wait()}")
        return line.decode().rstrip("\n")

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def asked(self, question: str) -> dict[str, Any]:
        """What it answers to one line."""
        self.send(question)
        answer: dict[str, Any] = json.loads(await self.heard())
        return answer

    async def while_it_runs(self, awaited: asyncio.Future[T]) -> T:
        """What is awaited. Raises RuntimeError if the program ends before."""
        over = asyncio.create_task(self.process.wait(), name="over")
        try:
            both: set[asyncio.Future[Any]] = {awaited, over}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
        if not awaited.done():
            raise RuntimeError(f"a measured program ended with {self.process.returncode}")
        return awaited.result()

    async def figures(self) -> dict[str, Any]:
        """Its last words, once it has nothing more to do."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        answer: dict[str, Any] = json.loads(await self.heard())
        await self.process.wait()
        return answer


@asynccontextmanager
async def started(name: str, *arguments: object) -> AsyncIterator[Program]:
    """A program that is ready. It does not outlive the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"{__name__}.{name}", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
        cwd=PROJECT,
        limit=_LINE,
    )
    try:
        program = Program(process)
        while (line := await program.heard()) != READY:
            program.said.append(line)
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
