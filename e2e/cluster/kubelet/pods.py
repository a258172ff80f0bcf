"""Which pods are this node's, and a worker for each: from the watch, and from what is found on disk at the start."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from e2e.cluster.api import Mirror, Object
from e2e.cluster.kubelet.host import Host
from e2e.cluster.kubelet.runtime import Container
from e2e.cluster.kubelet.worker import Worker

log = logging.getLogger(__name__)


class Pods:
    """Hands each pod of the mirror to its worker. A pod is known by its uid: names are used again."""

    def __init__(self, host: Host, mirror: Mirror) -> None:
        self._host = host
        self._mirror = mirror
        self.workers: dict[str, Worker] = {}
        self._found: dict[str, list[Container]] = defaultdict(list)

    async def run(self) -> None:
        """Adopt what runs, then follow the API.

        Nothing is started or ended before the first list has come: only then is it known what is an orphan.
        """
        for container in self._host.runtime.containers():
            self._host.runtime.settle(container)
            self._found[container.meta.pod_uid].append(container)
        await self._mirror.synced.wait()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for uid in {*self._found, *self._host.volumes.pods_on_disk()} - self._known():
                self._work(uid, None)
            for pod in list(self._mirror.objects.values()):
                self._hear("ADDED", pod)
            self._mirror.listen(self._hear)
            await asyncio.Event().wait()

    def find(self, namespace: str, name: str) -> Worker | None:
        pod = self._mirror.get(namespace, name)
        return self.workers.get(pod["metadata"]["uid"]) if pod else None

    def _known(self) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self._mirror.objects.values()}

    def _hear(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        gone = kind == "DELETED"
        if worker := self.workers.get(uid):
            worker.update(None if gone else pod)
        elif not gone:
            self._work(uid, pod)

    def _work(self, uid: str, pod: Object | None) -> None:
        worker = Worker(self._host, uid, pod=pod, found=self._found.pop(uid, []))
        self.workers[uid] = worker
        self._tasks.create_task(self._keep_working(uid, worker), name=f"pod {uid}")

    async def _keep_working(self, uid: str, worker: Worker) -> None:
        """An error in one pod is that pod's alone: its worker is made anew from what is on disk, as after a restart."""
        while True:
            try:
                await worker.run()
                del self.workers[uid]
                return
            except Exception:
                log.exception("pods: a worker failed pod=%s", uid)
            await asyncio.sleep(1)
            found = [each for each in self._host.runtime.containers() if each.meta.pod_uid == uid]
            for container in found:
                self._host.runtime.settle(container)
            gone = worker.pod is None or uid not in self._known()
            pod = None if worker.pod is None else self._mirror.get(*_key(worker.pod)) or worker.pod
            worker = self.workers[uid] = Worker(self._host, uid, pod=pod, found=found)
            if gone:
                worker.update(None)


def _key(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]
