"""What kubelet waits for: NodePublishVolume and NodeUnpublishVolume, beside the bare system calls that they cannot do without.

The node process is the one of the cluster; its sockets and directories are reached through the machine that it runs in.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec

from e2e.kubectl import clean_environment

from .caller import Times
from .figure import Figure, Goal, Series, at_most


def measure(root: str, *, rounds: int, crowds: int, crowd: int) -> list[Figure]:
    """`root` is where the node's machine is seen from here, `crowd` how many pods there are at once, a tenth of which are few."""
    few = crowd // 10
    command = [sys.executable, "-m", "e2e.bench.caller", root]
    for option, value in (("rounds", rounds), ("crowds", crowds), ("few", few), ("crowd", crowd)):
        command += [f"--{option}", str(value)]
    environment = {**clean_environment(), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    times = msgspec.json.decode(done.stdout, type=Times)
    figures = []
    for index, call in enumerate(("NodePublishVolume", "NodeUnpublishVolume")):

        def taken(name: str, pairs: tuple[tuple[float, float], ...], index: int = index) -> Series:
            return Series(name, tuple(pair[index] for pair in pairs))

        figures.append(Figure(call, "ms", taken("alone", times.alone), taken("bare system calls", times.bare), "3 ms", _within(3)))
        figures.append(
            Figure(
                f"{call}, {crowd} at once, each",
                "ms",
                taken(f"{crowd} at once", times.crowd),
                taken(f"{few} at once", times.few),
                "linear: 1.1 ×",
                at_most(lambda floor: 1.1 * floor),
            )
        )
    return figures


def _within(limit: float) -> Goal:
    return lambda figure: figure.measured.median <= limit
