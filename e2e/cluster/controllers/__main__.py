"""`python -m e2e.cluster.controllers --kubeconfig F`: all controllers and the scheduler, in one process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.api import ApiClient
from e2e.cluster.controllers import loop
from e2e.cluster.controllers.daemonset import DaemonSets
from e2e.cluster.controllers.deployment import Deployments
from e2e.cluster.controllers.endpoints import Endpoints
from e2e.cluster.controllers.garbage import GarbageCollector
from e2e.cluster.controllers.job import Jobs
from e2e.cluster.controllers.namespaces import NamespaceDefaults, NamespaceDeletion
from e2e.cluster.controllers.nodes import NodeLifecycle, PodGarbage
from e2e.cluster.controllers.proxy import ServiceProxy
from e2e.cluster.controllers.replicaset import ReplicaSets
from e2e.cluster.controllers.resources import Resources
from e2e.cluster.controllers.scheduler import Scheduler
from e2e.cluster.controllers.statefulset import StatefulSets
from e2e.cluster.controllers.volumes import InUseProtection, VolumeBinder


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster.controllers", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--node-grace", type=float, default=40.0, help="seconds without a Lease: node is unreachable")
    parser.add_argument("--pod-quarantine", type=float, default=5.0, help="seconds before a vanished node's pods go")
    parser.add_argument("--service-ca", action="store_true", help="publish what OpenShift's kube-apiserver asks for, too")
    return parser.parse_args(argv)


async def run(options: argparse.Namespace) -> None:
    async with ApiClient(options.kubeconfig) as api, asyncio.TaskGroup() as tasks:
        mirrors = loop.Mirrors(api, tasks)
        all_pods, nodes, services = (mirrors.of("v1", name) for name in ("pods", "nodes", "services"))
        definitions = mirrors.of("apiextensions.k8s.io/v1", "customresourcedefinitions")
        resources = Resources(api, definitions=definitions)
        controllers: list[loop.Controller] = [
            NamespaceDefaults(api, service_ca=options.service_ca),
            Scheduler(api, all_pods=all_pods, nodes=nodes),
            ReplicaSets(api),
            Deployments(api),
            DaemonSets(api, daemon_sets=mirrors.of("apps/v1", "daemonsets")),
            StatefulSets(api),
            Jobs(api),
            Endpoints(api, services=services),
            ServiceProxy(services=services, all_pods=all_pods),
            NamespaceDeletion(api, resources=resources),
            NodeLifecycle(api, grace=options.node_grace),
            VolumeBinder(api, claims=mirrors.of("v1", "persistentvolumeclaims"), volumes=mirrors.of("v1", "persistentvolumes")),
            InUseProtection(api),
            PodGarbage(api, all_pods=all_pods, quarantine=options.pod_quarantine),
        ]
        for controller in controllers:
            tasks.create_task(loop.run(controller, mirrors), name=type(controller).__name__)
        tasks.create_task(GarbageCollector(api, mirrors, resources=resources).run(), name="garbage collector")


async def _until_told(options: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run(options)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_until_told(arguments()))


if __name__ == "__main__":
    main()
