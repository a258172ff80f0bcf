"""Takes a cluster down when the process that it was for has ended, however it ended.

    python -m e2e.cluster.guard --state DIR --owner PID

A test run that is killed with -9 cannot clean up after itself; this process, which waits for just that, can.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster.guard", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--owner", type=int, required=True)
    options = parser.parse_args(argv)
    wait_for_end(options.owner)
    from e2e.cluster.lifecycle import LocalCluster  # costs more than all else that most guards ever do

    asyncio.run(LocalCluster(options.state).down())


def wait_for_end(pid: int) -> None:
    """Return when the process has ended; at once if it already has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([descriptor], [], [])
    os.close(descriptor)


if __name__ == "__main__":
    main()
