"""Measures dynvol and what it is held against, side by side, on the local cluster or on one that a kubeconfig names.

Prints one table. `--json` keeps the figures with all their samples, `--plot` draws them. Nothing fails because it is slow.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from dynvol.kube.client import KubeClient
from e2e.cluster import real
from e2e.grounds.anycluster import any_cluster
from e2e.grounds.ground import Ground
from e2e.grounds.local import LocalGround
from e2e.grounds.session import local_ground, object_store
from e2e.kubectl import Kubectl

from . import calls, claims, noise, runtime, sharing, writes
from .figure import Figure, document, table

ON_A_CLUSTER = ("claims", "calls", "writes", "sharing")
SUBJECTS = (*ON_A_CLUSTER, *runtime.SUBJECTS)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack/bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few rounds: shows that it works, and no more")
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="of what to measure; may be repeated")
    parser.add_argument("--mounter", action="append", choices=("s3fs", "rclone"), help="the clients; default: s3fs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep all samples")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="where to draw them")
    parser.add_argument("--apiserver", choices=("own", "real"), help="of the local cluster; default: a real one where there is one")
    parser.add_argument("--kubeconfig", type=Path, help="of a cluster whose nodes are this machine")
    parser.add_argument("--s3-endpoint", default="", help="URL of an S3 server that the pods reach too")
    parser.add_argument("--s3-access-key", default="", help="with which buckets can be made there")
    parser.add_argument("--s3-secret-key", default="", help="which belongs to the access key")
    parser.add_argument("--image", default="", help="dynvol's, if the cluster finds it under another name than config/default's")
    return parser.parse_args(argv)


@contextmanager
def ground_of(given: argparse.Namespace) -> Iterator[Ground]:
    if given.kubeconfig:
        store = object_store(given.s3_endpoint, access=given.s3_access_key, key=given.s3_secret_key)
        with any_cluster(Kubectl(given.kubeconfig), store, image=given.image) as found:
            yield found
        return
    with tempfile.TemporaryDirectory(prefix="dynvol-bench-") as folder:
        on_real = real.programs() is not None and given.apiserver != "own"
        with local_ground(Path(folder), real_apiserver=on_real) as local:
            yield local


def measured(given: argparse.Namespace) -> Iterator[Figure]:
    """As they come."""
    wanted = given.only or SUBJECTS
    yield from runtime.measured(wanted, short=given.short, own=given.apiserver == "own")
    if set(ON_A_CLUSTER) & set(wanted):
        with ground_of(given) as ground:
            yield from on_a_cluster(ground, given, wanted)


def on_a_cluster(ground: Ground, given: argparse.Namespace, wanted: Sequence[str]) -> Iterator[Figure]:
    with asyncio.Runner() as runner:
        if "calls" in wanted and isinstance(ground, LocalGround):
            machine = f"/proc/{ground.machines()[0]}/root"
            rounds, crowds, crowd = (15, 1, 20) if given.short else (200, 8, 100)
            yield from calls.measure(machine, rounds=rounds, crowds=crowds, crowd=crowd)
        for mounter in given.mounter or ("s3fs",):
            yield from _with_pods(ground, runner, mounter, wanted, short=given.short)


def _with_pods(ground: Ground, runner: asyncio.Runner, mounter: str, wanted: Sequence[str], *, short: bool) -> list[Figure]:
    rounds, cold_rounds, stable = (3, 1, 0.0) if short else (40, 6, claims.STABLE)
    connected = AsyncExitStack()
    client = runner.run(connected.enter_async_context(KubeClient.connect(ground.kubectl.kubeconfig)))
    try:
        with claims.bed(ground, client, runner.run, mounter=mounter) as bed:
            return [
                *(claims.measure(bed, rounds=rounds, cold_rounds=cold_rounds, stable=stable) if "claims" in wanted else ()),
                *(writes.measure(bed, rounds=1 if short else 10) if "writes" in wanted else ()),
                *((*sharing.client(bed), *sharing.measure(bed, pods=2 if short else 20)) if "sharing" in wanted else ()),
            ]
    finally:
        runner.run(connected.aclose())


def main(argv: Sequence[str], say: Callable[[str], object] = print) -> int:
    given = arguments(argv)
    before = noise.reference("before", short=given.short)
    figures = list(measured(given))
    after = noise.reference("after", short=given.short)
    said = noise.said(before, after)
    say(table(figures))
    say(f"\n{said}")
    if given.json:
        given.json.write_text(document(figures, surroundings={"noise": said, "before": before.described, "after": after.described}))
    if given.plot:
        from . import plot  # matplotlib is heavy, and wanted for this alone

        plot.draw(figures, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
