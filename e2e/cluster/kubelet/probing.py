"""What is known of the health of a pod's running containers: started, ready, or to be killed.

It runs the probes (`probes`) as tasks, and turns what they find into facts that the worker reads on its next round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from e2e.cluster.api import Object
from e2e.cluster.kubelet import probes
from e2e.cluster.kubelet.host import Host
from e2e.cluster.kubelet.runtime import Container

Tell = Callable[[str, str, str], None]
"""Records a warning event: reason, message, container's name."""


class Probing:
    """The probes of one pod's containers. `wake` is called when a fact has changed."""

    def __init__(self, host: Host, uid: str, *, wake: Callable[[], None], tell: Tell) -> None:
        self._host = host
        self._uid = uid
        self._wake = wake
        self._tell = tell
        self._started: set[str] = set()
        self._ready: set[str] = set()
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self.condemned: dict[str, str] = {}
        """Container id → why it must be killed."""

    def remember(self, container: Container, statuses: list[Object]) -> None:
        """A kubelet that starts again believes what it last wrote, until a probe says otherwise."""
        for entry in statuses:
            if entry.get("containerID", "").endswith(container.meta.id):
                self._ready |= {container.meta.id} if entry.get("ready") else set()
                self._started |= {container.meta.id} if entry.get("started") else set()

    def has_started(self, container: Container, spec: Object) -> bool:
        return "startupProbe" not in spec or container.meta.id in self._started

    def is_ready(self, container: Container, spec: Object) -> bool:
        """For a running container: it has started, and its readiness probe, if any, passes."""
        passes = "readinessProbe" not in spec or container.meta.id in self._ready
        return passes and self.has_started(container, spec)

    def watch(self, container: Container, spec: Object, *, tasks: asyncio.TaskGroup) -> None:
        """Begin to probe a container; once for each. The startup probe comes first, the others when it has passed."""
        if container.meta.id not in self._tasks:
            self._tasks[container.meta.id] = []
            self._probe(container, spec, tasks)

    def forget(self, container: Container) -> None:
        for task in self._tasks.pop(container.meta.id, ()):
            task.cancel()
        self.condemned.pop(container.meta.id, None)

    def stop(self) -> None:
        for probing in self._tasks.values():
            for task in probing:
                task.cancel()
        self._tasks.clear()

    def _probe(self, container: Container, spec: Object, tasks: asyncio.TaskGroup) -> None:
        if not self.has_started(container, spec):
            self._launch(container, spec, "startup", partial(self._has_passed_startup, container, spec, tasks), tasks)
            return
        if "readinessProbe" in spec:
            self._launch(container, spec, "readiness", partial(self._set_ready, container, holds=True), tasks)
        if "livenessProbe" in spec:
            self._launch(container, spec, "liveness", lambda: None, tasks)

    def _launch(self, container: Container, spec: Object, kind: str, passed: Callable[[], None], tasks: asyncio.TaskGroup) -> None:
        watching = probes.watch(
            probes.Probe.of(spec[f"{kind}Probe"], spec, host=self._host.pod_ip(self._uid)),
            partial(self._execute, container),
            passed=passed,
            failed=partial(self._failed, container, kind),
            once=kind == "startup",
        )
        task = tasks.create_task(watching, name=f"{kind} {container.meta.name} {self._uid}")
        self._tasks[container.meta.id].append(task)

    async def _execute(self, container: Container, command: list[str], limit: float) -> tuple[int, str]:
        outcome = await self._host.runtime.execute(container, command, limit=limit)
        return outcome.code, outcome.output + outcome.errors

    def _has_passed_startup(self, container: Container, spec: Object, tasks: asyncio.TaskGroup) -> None:
        self._started.add(container.meta.id)
        self._probe(container, spec, tasks)
        self._wake()

    def _set_ready(self, container: Container, *, holds: bool) -> None:
        if (container.meta.id in self._ready) != holds:
            self._ready ^= {container.meta.id}
            self._wake()

    def _failed(self, container: Container, kind: str, message: str) -> None:
        name = container.meta.name
        self._tell("Unhealthy", f"{kind.capitalize()} probe failed: {message}", name)
        if kind == "readiness":
            self._set_ready(container, holds=False)
        else:
            self.condemned[container.meta.id] = f"Container {name} failed {kind} probe, will be restarted"
            self._wake()
