"""The command line of hack/quickstart, for the script that any Python may run and for what it starts. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
STATE = PROJECT / ".quickstart"


@dataclass(frozen=True, slots=True)
class Arguments:
    """`prepared` is how many seconds hack/quickstart took before this process began."""

    keep: bool
    down: bool
    yes: bool
    as_written: bool
    state: Path
    prepared: float


def parse(arguments: Sequence[str]) -> Arguments:
    parser = argparse.ArgumentParser(
        prog="hack/quickstart", description="Shows a bucket appear in a running container, and vanish."
    )
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--keep", action="store_true", help="leave it all running at the end, and say how to use it")
    ends.add_argument("--down", action="store_true", help="end what an earlier --keep left running")
    parser.add_argument("--yes", action="store_true", help="do not ask before Debian packages are installed")
    parser.add_argument(
        "--as-written", action="store_true", help="give mount pods no more CPU than the sample class does: 10m, so all takes longer"
    )
    parser.add_argument("--state", type=Path, default=STATE, help="folder for everything that it makes (default: %(default)s)")
    parser.add_argument("--prepared", type=float, default=0.0, help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    return Arguments(found.keep, found.down, found.yes, found.as_written, found.state.resolve(), found.prepared)
