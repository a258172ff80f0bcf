"""`python -m e2e.chaos --seconds N --seed S`: one run of chaos, its table, and 0 only if all that must be zero is."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from e2e.chaos.run import PATIENCE, Run


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hack/chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long faults strike (default: %(default)s)")
    parser.add_argument("--seed", default="1", help="the same seed gives the same schedule (default: %(default)s)")
    parser.add_argument("--every", type=float, default=0.0, help="seconds between faults; else so that each kind comes, at most 8")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds of quiet, in all (default: %(default)s)")
    parser.add_argument("--only", default="", help="comma-separated kinds of faults, to look at one of them")
    parser.add_argument("--schedule", action="store_true", help="print what would happen when, and end")
    parser.add_argument("--keep", type=Path, help="a folder for the logs and the ledgers")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        state = Path(folder) / "cluster"
        only = tuple(kind.strip() for kind in options.only.split(",") if kind.strip())
        given = {"seconds": options.seconds, "seed": options.seed, "every": options.every, "patience": options.patience}
        run = Run(state, **given, only=only, keep=options.keep)
        if options.schedule:
            print("\n".join(run.described()))
            return 0
        return 0 if asyncio.run(_until_told(run)) else 1


async def _until_told(run: Run) -> bool:
    """SIGTERM ends it as Ctrl-C does: with everything taken down."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run.carry_out()


if __name__ == "__main__":
    sys.exit(main())
