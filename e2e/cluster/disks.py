"""The nodes' disks: file systems of a bounded size that outlive their nodes, in a mount namespace that none else sees.

    python -m e2e.cluster.disks --size MIB --ready FILE DIR…

Were they mounted on the machine itself, its mount table would change while others look at it. Nodes start inside of this process'
namespace and take the disks along into their own; the disks go with this process. What is on them is in memory.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import mounts

INODES_PER_MIB = 64


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster.disks", description=__doc__)
    parser.add_argument("--size", type=int, required=True, help="of each, in MiB")
    parser.add_argument("--ready", type=Path, required=True, help="a file that is made when all are mounted")
    parser.add_argument("disks", nargs="+", type=Path)
    options = parser.parse_args(argv)
    mounts.unshare(mounts.CLONE_NEWNS)
    mounts.make_private(Path("/"), recursive=True)
    for disk in options.disks:
        disk.mkdir(parents=True, exist_ok=True)
        mounts.tmpfs(disk, options=f"mode=0755,size={options.size}m,nr_inodes={options.size * INODES_PER_MIB}")
    options.ready.touch()
    signal.pause()


if __name__ == "__main__":
    main()
