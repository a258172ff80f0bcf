"""`python -m e2e.cluster.kubelet`: one node's kubelet. Composes the parts; each runs until the process is ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from e2e.cluster import cgroups, mounts
from e2e.cluster.api import ApiClient, Mirror, path
from e2e.cluster.kubelet import addresses, csi, node, podspec, server
from e2e.cluster.kubelet.events import Events
from e2e.cluster.kubelet.host import Host, Timing
from e2e.cluster.kubelet.pods import Pods
from e2e.cluster.kubelet.runtime import Runtime
from e2e.cluster.kubelet.volumes import Volumes

log = logging.getLogger("kubelet")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster.kubelet", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--node-name", required=True)
    parser.add_argument("--root", type=Path, default=Path("/var/lib/kubelet"), help="what a real kubelet calls --root-dir")
    parser.add_argument("--state", type=Path, required=True, help="containers, logs and addresses")
    parser.add_argument("--pod-network", default="127.64.1.0/24", help="loopback addresses of the node and its pods")
    parser.add_argument("--port", type=int, default=10250)
    parser.add_argument("--tls-cert", type=Path, required=True)
    parser.add_argument("--tls-key", type=Path, required=True)
    parser.add_argument("--cgroup", default="", help="parent of the pods' cgroups")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--image", action="append", default=[], metavar="NAME=ENTRYPOINT")
    parser.add_argument("--heartbeat", type=float, default=10.0)
    parser.add_argument("--crash-backoff", type=float, default=10.0, help="seconds; the first restart waits for none")
    parser.add_argument("--crash-backoff-cap", type=float, default=300.0, help="seconds")
    parser.add_argument("--refresh", type=float, default=10.0, help="seconds between looks at secrets, config maps, tokens")
    return parser.parse_args(argv)


async def run(options: argparse.Namespace) -> None:
    root: Path = options.root
    prepare_root(root)
    pool = addresses.Pool(options.pod_network, options.state / "addresses")
    cgroup = cgroup_parent(options.cgroup)
    runtime = Runtime(options.state / "containers", logs=options.state / "logs", cgroup_parent=cgroup)
    async with ApiClient(options.kubeconfig) as api, asyncio.TaskGroup() as tasks:
        labels = dict(label.split("=", 1) for label in options.label)
        this_node = node.Node(
            api, options.node_name, address=pool.node, port=options.port, labels=labels, heartbeat=options.heartbeat
        )
        await this_node.register()
        registry = csi.Registry(root / "plugins_registry", api=api, node=options.node_name)
        drivers = Mirror(api, path("storage.k8s.io/v1", "csidrivers"))
        pods_mirror = Mirror(api, path("v1", "pods"), fieldSelector=f"spec.nodeName={options.node_name}")
        volumes = Volumes(root, api=api, inline=csi.Volumes(registry, csi_drivers=drivers, node=options.node_name))
        events = Events(api, component="kubelet", host=options.node_name)
        host = Host(
            api=api,
            runtime=runtime,
            volumes=volumes,
            events=events,
            images=images(options.image),
            addresses=pool,
            host_ip=pool.node,
            allocatable=node.capacity(),
            services=service_variables(api.server),
            timing=Timing(
                crash_backoff=options.crash_backoff, crash_backoff_cap=options.crash_backoff_cap, refresh=options.refresh
            ),
            evictions=options.state / "evictions",
        )
        pods = Pods(host, pods_mirror)
        site = server.serving(
            server.Server(pods, runtime).application(),
            address=pool.node,
            port=options.port,
            certificate=options.tls_cert,
            key=options.tls_key,
            ca=api.ca_data,
        )
        async with site:
            for name, work in (
                ("registry", registry.run()),
                ("drivers", drivers.run()),
                ("pods mirror", pods_mirror.run()),
                ("pods", pods.run()),
                ("events", events.run()),
                ("node", this_node.run()),
            ):
                tasks.create_task(work, name=name)
            await asyncio.Event().wait()


def prepare_root(root: Path) -> None:
    """The folders that a real node has, on a mount that is shared: without that nothing propagates to containers."""
    for folder in ("plugins", "plugins_registry", "pods"):
        (root / folder).mkdir(parents=True, exist_ok=True, mode=0o750)
    if not mounts.holding(root).shared:
        log.warning("kubelet: %s is not on a shared mount; mountPropagation will be refused", root)


def cgroup_parent(wanted: str) -> str:
    if wanted and cgroups.writable(wanted):
        return wanted
    log.warning("kubelet: NO CGROUPS here: limits of CPU and memory will NOT be enforced")
    return ""


def service_variables(server_url: str) -> dict[str, str]:
    """There is no proxy for services here: a pod finds the API server where the kubelet finds it."""
    url = urlsplit(server_url)
    port = str(url.port or 443)
    host = url.hostname or "127.0.0.1"
    return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "KUBERNETES_SERVICE_PORT_HTTPS": port}


def images(named: Sequence[str]) -> podspec.Images:
    given = dict(entry.split("=", 1) for entry in named)
    known = podspec.default_images().entrypoints
    return podspec.Images({**known, **{name: (entrypoint,) for name, entrypoint in given.items()}})


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_until_told(arguments()))


async def _until_told(options: argparse.Namespace) -> None:
    """SIGTERM ends the kubelet and leaves its containers running, as a real one does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run(options)


if __name__ == "__main__":
    main()
