"""`python -m e2e.cluster up|down|status|kubeconfig|kill|start`: the local cluster from a terminal, or without one."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import cgroups
from e2e.cluster.lifecycle import ClusterError, LocalCluster, described


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status", "kubeconfig", "kill", "start"])
    parser.add_argument("part", nargs="?", help="for kill and start: apiserver, controllers, node-1, kubelet/node-1")
    parser.add_argument("--state", type=Path, default=Path("/tmp/dynvol-cluster"))
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--apiserver", choices=["local", "real"], default="local", help="real: from $KUBEBUILDER_ASSETS")
    options = parser.parse_intermixed_args(argv)
    cluster = LocalCluster(options.state, nodes=options.nodes, real_apiserver=options.apiserver == "real")
    try:
        return asyncio.run(_carry_out(cluster, options))
    except (ClusterError, TimeoutError) as error:
        print(f"error: {error or 'it took too long'}", file=sys.stderr)
        return 1


async def _carry_out(cluster: LocalCluster, options: argparse.Namespace) -> int:
    begin = time.monotonic()
    match options.command:
        case "up":
            await cluster.up()
            if not cgroups.writable(cluster.cgroup):
                print("warning: cgroups cannot be written here: limits of CPU and memory are NOT enforced", file=sys.stderr)
            print(f"up in {time.monotonic() - begin:.1f} s; export KUBECONFIG={cluster.kubeconfig}")
        case "down":
            await cluster.down()
            print(f"down in {time.monotonic() - begin:.1f} s")
        case "status":
            print("\n".join(described(cluster)) if cluster.state.exists() else "no cluster here")
        case "kubeconfig":
            print(cluster.kubeconfig)
        case "kill":
            await cluster.kill(options.part)
        case "start":
            await cluster.start(options.part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
