"""What the person at the terminal sees: numbered steps, real commands with what they print while they print it, timings.

Knows nothing of clusters. Plain text where no one looks on: no colours, no moving parts.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

BOLD, FAINT, PLAIN = "\033[1m", "\033[2m", "\033[0m"


class CommandFailed(Exception):
    """A command ended with an error, or did not end in time. Its output has been shown."""


class NobodyListens(KeyboardInterrupt):
    """The terminal, or the program that our output goes to, has gone away: the same as being interrupted."""


@dataclass(slots=True)
class Terminal:
    """`environment` and `directory` are those of every command."""

    directory: Path
    environment: Mapping[str, str]
    steps: list[tuple[str, float]] = field(default_factory=list)
    """Title and seconds of each step that came to its end."""

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._print(f"\n{self._in(BOLD, f'{len(self.steps) + 1}. {title}')}")
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self.steps.append((title, took))
        self._print(self._in(FAINT, f"   {took:.1f} s"))

    def say(self, text: str) -> None:
        self._print(f"   {text}")

    def run(self, *command: str, limit: float = 60.0, first: int = 0, since: str = "") -> str:
        """Run a command and show it with its output, line by line; returns the output. Raises CommandFailed.

        Of long output, only the `first` lines are shown, or those from the one that begins with `since`.
        """
        self._print(f"   {self._in(BOLD, '$ ' + shlex.join(command))}")
        lines: list[str] = []
        shown = not since
        with self.started(*command, limit=limit) as process:
            for line in output(process):
                lines.append(line)
                shown = shown or line.startswith(since)
                if shown and (not first or len(lines) <= first):
                    self._print(f"   {line.rstrip()}")
        if first and len(lines) > first:
            self._print(self._in(FAINT, f"   … {len(lines) - first} more lines"))
        if process.returncode:
            raise CommandFailed(f"{shlex.join(command)}: {''.join(lines[-5:]).strip() or 'it took too long'}")
        return "".join(lines)

    def ask(self, *command: str, limit: float = 30.0) -> str:
        """Run a command that is not part of what is shown. Raises CommandFailed."""
        with self.started(*command, limit=limit) as process:
            said = "".join(output(process))
        if process.returncode:
            raise CommandFailed(f"{shlex.join(command)}: {said.strip() or 'it took too long'}")
        return said

    @contextlib.contextmanager
    def started(self, *command: str, limit: float) -> Iterator[subprocess.Popen[str]]:
        """A running command. Killed after `limit` seconds; whatever happens, it has ended after the block."""
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = threading.Timer(limit, process.kill)
        deadline.start()
        try:
            yield process
            process.wait()
        finally:
            deadline.cancel()
            process.kill()
            process.wait()
            output(process).close()

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        width = max(len(left) for left, _ in rows)
        self._print(f"\n{self._in(BOLD, title)}")
        for left, right in rows:
            self._print(f"   {left:{width}}  {right:>8}")

    def _in(self, style: str, text: str) -> str:
        plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
        return text if plain else f"{style}{text}{PLAIN}"

    def _print(self, text: str) -> None:
        try:
            print(text, flush=True)
        except OSError:
            # What is still to be said while cleaning up goes nowhere, and cleaning up goes on.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise NobodyListens from None


def output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout
