"""The containers of one pod: every try at each, how to start the next, how to end one.

It carries out what `worker` has decided, and decides nothing but the details of starting and stopping. What it knows is
on disk too (`runtime`), so that it can be built again from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from e2e.cluster.api import ApiError, Object
from e2e.cluster.kubelet import environment, oci, plan, podspec, status
from e2e.cluster.kubelet.host import Host
from e2e.cluster.kubelet.probing import Probing
from e2e.cluster.kubelet.runtime import Container, Exit
from e2e.cluster.kubelet.volumes import SUB_PATHS

MESSAGE_LIMIT = 4096  # bytes of a termination message
KILL_AGAIN = 5.0  # seconds until SIGKILL is sent once more to what did not end

Grace = Callable[[], float]
"""Seconds that a container is given to end; asked again while it is waited for, since a second delete may shorten it."""


@dataclass(slots=True)
class Tries:
    """All containers made for one name, the oldest first; the last is the current one."""

    made: list[Container] = field(default_factory=list)

    @property
    def current(self) -> Container | None:
        return self.made[-1] if self.made else None

    @property
    def previous(self) -> Container | None:
        return self.made[-2] if len(self.made) > 1 else None


class Containers:
    """`wake` is called whenever a container has ended or a probe has found something new."""

    def __init__(self, host: Host, uid: str, *, pod: Object | None, wake: Callable[[], None]) -> None:
        self._host = host
        self._uid = uid
        self._wake = wake
        self._ended: dict[str, asyncio.Event] = {}
        self._released: set[str] = set()
        timing = host.timing
        self._backoff = plan.Backoff(initial=timing.crash_backoff, cap=timing.crash_backoff_cap)
        self.pod = pod
        self.tries: dict[str, Tries] = {}
        self.probing = Probing(host, uid, wake=wake, tell=partial(self._event, "Warning"))
        self.refused: dict[str, str] = {}
        """Container's name → why it cannot even be configured."""

    # What there is

    def current(self, name: str) -> Container | None:
        return tries.current if (tries := self.tries.get(name)) else None

    def previous(self, name: str) -> Container | None:
        return tries.previous if (tries := self.tries.get(name)) else None

    def running(self) -> list[Container]:
        return [tries.current for tries in self.tries.values() if tries.current and tries.current.exit is None]

    def observed(self) -> dict[str, plan.Observed]:
        """What `plan` decides on."""
        seen = {}
        for name, tries in self.tries.items():
            if container := tries.current:
                ended = container.exit
                started = self.probing.has_started(container, self._spec_of(name))
                seen[name] = plan.Observed(container.meta.attempt, ended.code if ended else None, started)
        return seen

    def restart_delay(self, name: str) -> float:
        return self._backoff.remaining(name, now=asyncio.get_running_loop().time())

    def views(self) -> dict[str, status.ContainerView]:
        """What `status` shows."""
        return {name: self._view(name, tries) for name, tries in self.tries.items()}

    def _view(self, name: str, tries: Tries) -> status.ContainerView:
        current, previous = tries.current, tries.previous
        assert current is not None
        spec, ended = self._spec_of(name), self._exit_of(current)
        running = ended is None
        ready = self.probing.is_ready(current, spec) if ended is None else current.meta.init and ended.code == 0
        return status.ContainerView(
            current=current,
            previous=previous,
            ended=ended,
            ended_before=self._exit_of(previous) if previous else None,
            ready=ready,
            started=running and self.probing.has_started(current, spec),
        )

    def _exit_of(self, container: Container) -> Exit | None:
        """How a container ended, with its last words: the termination log, else, if it asks for that, its output."""
        ended = container.exit
        if ended is None or ended.message:
            return ended
        said = _tail(self._folder(container.meta.name) / "termination-log")
        fallback = self._spec_of(container.meta.name).get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if not said and fallback and ended.code != 0:
            lines = _tail(Path(container.meta.log)).splitlines()[-80:]
            said = "\n".join(line.split(" ", 3)[-1] for line in lines)
        return replace(ended, message=said) if said else ended

    def _spec_of(self, name: str) -> Object:
        if self.pod is None:
            return {"name": name}
        everyone = [*(self.pod["spec"].get("initContainers") or ()), *self.pod["spec"]["containers"]]
        return next((container for container in everyone if container["name"] == name), {"name": name})

    def _folder(self, name: str) -> Path:
        return self._host.volumes.pod_directory(self._uid) / "containers" / name

    # Beginning

    def adopt(self, container: Container) -> None:
        """Take a container on, one just made or one that was found, and hear of its end."""
        self.tries.setdefault(container.meta.name, Tries()).made.append(container)
        ended = self._ended[container.meta.id] = asyncio.Event()
        if container.exit is not None:
            ended.set()
            return

        def note() -> None:
            self._host.runtime.settle(container)
            ended.set()
            self._wake()

        self._host.runtime.when_ended(container, note)
        statuses = ((self.pod or {}).get("status") or {}).get("containerStatuses") or []
        self.probing.remember(container, statuses)

    def watch_all(self, tasks: asyncio.TaskGroup) -> None:
        for container in self.running():
            self.probing.watch(container, self._spec_of(container.meta.name), tasks=tasks)

    async def start(self, name: str, attempt: int, *, volumes: Mapping[str, Path]) -> bool:
        """Start one container; false if it could not even be described, which is to be tried again.

        One that could be described but not started counts as started and ended: it crashes like any other.
        """
        assert self.pod is not None
        spec = self._spec_of(name)
        image = spec.get("image", "")
        initial = any(each["name"] == name for each in self.pod["spec"].get("initContainers") or ())
        try:
            around = await self._surroundings(spec, volumes)
            make = partial(self._oci_spec, spec, around)
            await asyncio.to_thread(make, "")  # what is wrong with the description is known before anything is made
        except (environment.ConfigError, ApiError, OSError) as error:
            if self.refused.get(name) != str(error):
                self._event("Warning", "Failed", f"Error: {error}", name)
            self.refused[name] = str(error)
            return False
        self.refused.pop(name, None)
        self._event("Normal", "Pulled", f'Container image "{image}" already present on machine', name)
        whose = {"namespace": self.pod["metadata"]["namespace"], "name": self.pod["metadata"]["name"], "uid": self._uid}
        container = await self._host.runtime.start(make, pod=whose, name=name, attempt=attempt, image=image, init=initial)
        self.adopt(container)
        self._tell_start(container)
        await self._forget_old(name)
        await self._post_start(container, spec)
        return True

    def _oci_spec(self, spec: Object, around: podspec.Surroundings, cgroup: str) -> oci.ContainerSpec:
        assert self.pod is not None
        return podspec.build(self.pod, spec, around, images=self._host.images, cgroup=cgroup)

    def _tell_start(self, container: Container) -> None:
        name, ended = container.meta.name, container.exit
        if ended and ended.reason == "StartError":
            self._event("Warning", "Failed", f"Error: {ended.message}", name)
            return
        self._event("Normal", "Created", f"Created container: {name}", name)
        self._event("Normal", "Started", f"Started container {name}", name)

    async def _forget_old(self, name: str) -> None:
        """Keep the current try and the one before it."""
        tries = self.tries[name]
        while len(tries.made) > 2:
            await self._host.runtime.remove(tries.made.pop(0))

    async def _post_start(self, container: Container, spec: Object) -> None:
        action = (spec.get("lifecycle") or {}).get("postStart") or {}
        if "exec" in action and container.exit is None:
            outcome = await self._host.runtime.execute(container, action["exec"]["command"], limit=60)
            if outcome.code != 0:
                self._event("Warning", "FailedPostStartHook", outcome.errors or outcome.output, spec["name"])
                await self.stop(spec["name"], lambda: 0.0)

    async def _surroundings(self, container: Object, volumes: Mapping[str, Path]) -> podspec.Surroundings:
        """Environment, hosts file and termination log of a container that is about to start."""
        assert self.pod is not None
        sources = await self._sources(container)
        known = environment.variables(self.pod, container, self._host.facts(self._uid), sources)
        log_file = self._folder(container["name"]) / "termination-log"
        hosts = self._host.volumes.pod_directory(self._uid) / "etc-hosts"
        _prepare_files(hosts, self._hosts_text(), log_file)
        sub_paths = self._host.volumes.pod_directory(self._uid) / SUB_PATHS
        names = self._host.volumes.sub_path_names(self._uid)
        return podspec.Surroundings(volumes, known, hosts, log_file, sub_paths, names)

    def _hosts_text(self) -> str:
        assert self.pod is not None
        lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost"]
        lines.append(f"{self._host.pod_ip(self._uid)}\t{podspec.hostname(self.pod)}")
        aliases = self.pod["spec"].get("hostAliases") or ()
        lines += ["\t".join([alias["ip"], *alias.get("hostnames", ())]) for alias in aliases]
        return "\n".join(lines) + "\n"

    async def _sources(self, container: Object) -> environment.Sources:
        """The Secrets and ConfigMaps that a container's environment names, and no others."""
        assert self.pod is not None
        secrets: dict[str, Object | None] = {}
        config_maps: dict[str, Object | None] = {}
        references = [*(container.get("envFrom") or ())]
        references += [variable.get("valueFrom") or {} for variable in container.get("env") or ()]
        for reference in references:
            if secret := reference.get("secretRef") or reference.get("secretKeyRef"):
                secrets[secret["name"]] = await self._host.volumes.secret(self.pod, secret["name"])
            elif config_map := reference.get("configMapRef") or reference.get("configMapKeyRef"):
                config_maps[config_map["name"]] = await self._host.volumes.config_map(self.pod, config_map["name"])
        return environment.Sources(config_maps, secrets)

    # Ending

    async def note_ends(self) -> None:
        """Release what ended: once for each container, with its restart delay worked out from how long it ran."""
        for name, tries in self.tries.items():
            for container in tries.made:
                identity = container.meta.id
                if identity in self._released or not self._ended[identity].is_set():
                    continue
                self._released.add(identity)
                self.probing.forget(container)
                ended = container.exit
                now = asyncio.get_running_loop().time()
                self._backoff.ended(name, at=now, ran_for=_seconds_between(ended) if ended else 0.0)
                await self._host.runtime.release(container)

    async def kill_condemned(self, grace: Grace) -> None:
        """End what failed its liveness or startup probe; its restart is the next round's business."""
        for container in self.running():
            if why := self.probing.condemned.pop(container.meta.id, None):
                self._event("Normal", "Killing", why, container.meta.name)
                await self.stop(container.meta.name, grace)

    async def stop_all(self, grace: Grace) -> None:
        """All but the init containers together, then what is left of those (sidecars), the last one first."""
        initial = [container["name"] for container in (self.pod or {"spec": {}})["spec"].get("initContainers") or ()]
        async with asyncio.TaskGroup() as tasks:
            for name in self.tries:
                if name not in initial:
                    tasks.create_task(self.stop(name, grace), name=f"stop {name} {self._uid}")
        for name in reversed(initial):
            await self.stop(name, grace)

    async def stop(self, name: str, grace: Grace) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace is over; returns when the container has ended."""
        container = self.current(name)
        if container is None or container.exit is not None:
            return
        self._event("Normal", "Killing", f"Stopping container {name}", name)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await self._pre_stop(container, grace())
        await self._host.runtime.signal(container, signal.SIGTERM)
        ended = self._ended[container.meta.id]
        while not ended.is_set() and (left := begin + grace() - loop.time()) > 0:
            await _within(ended.wait(), min(left, 1.0))
        while not ended.is_set():
            await self._host.runtime.signal(container, signal.SIGKILL)
            await _within(ended.wait(), KILL_AGAIN)

    async def _pre_stop(self, container: Container, seconds: float) -> None:
        action = (self._spec_of(container.meta.name).get("lifecycle") or {}).get("preStop") or {}
        if "sleep" in action:
            await _within(self._ended[container.meta.id].wait(), min(seconds, action["sleep"]["seconds"]))
        if "exec" in action:
            try:
                outcome = await self._host.runtime.execute(container, action["exec"]["command"], limit=seconds)
            except TimeoutError:
                return
            if outcome.code != 0:
                self._event("Warning", "FailedPreStopHook", outcome.errors or outcome.output, container.meta.name)

    async def remove_all(self) -> None:
        for tries in self.tries.values():
            for container in tries.made:
                await self._host.runtime.remove(container)
        await self._host.runtime.forget_pod(self._uid)

    def _event(self, kind: str, reason: str, message: str, name: str) -> None:
        if self.pod is not None:
            self._host.events.record(self.pod, reason, message, kind=kind, container=name)


def _prepare_files(hosts: Path, text: str, log_file: Path) -> None:
    log_file.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text(text)
    log_file.write_text("")
    log_file.chmod(0o666)


def _tail(file: Path) -> str:
    try:
        return file.read_bytes()[-MESSAGE_LIMIT:].decode(errors="replace")
    except OSError:
        return ""


def _seconds_between(ended: Exit) -> float:
    try:
        begin = datetime.fromisoformat(ended.started_at[:19])
        return (datetime.fromisoformat(ended.finished_at[:19]) - begin).total_seconds()
    except ValueError:
        return 0.0


async def _within(waiting: Awaitable[object], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting
