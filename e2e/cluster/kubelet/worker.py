"""One pod on this node, from the first volume to the last: a loop that looks, decides and acts, then waits to be woken.

A worker keeps nothing that matters in memory: containers, volumes and addresses are found on disk, the pod in the API.
So a kubelet may be killed between any two lines, and the next one goes on. What to do next is decided in `plan`, what
to say about it in `status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import aiohttp

from e2e.cluster.api import ApiClient, ApiError, Object, path
from e2e.cluster.kubelet import addresses, csi, environment, oci, plan, podspec, probes, status
from e2e.cluster.kubelet.events import Events
from e2e.cluster.kubelet.runtime import Container, Exit, Runtime
from e2e.cluster.kubelet.volumes import MountError, Volumes

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 4096  # bytes of a termination message
ORPHAN_GRACE = 2.0  # seconds for containers whose pod is gone from the API

_MOUNT_PROBLEMS = (MountError, environment.ConfigError, csi.CsiError, ApiError, OSError, aiohttp.ClientError)


@dataclass(frozen=True, slots=True)
class Timing:
    """Kubelet's delays, in seconds; tests shorten them."""

    crash_backoff: float = 10.0
    crash_backoff_cap: float = 300.0
    mount_backoff: float = 0.5
    mount_backoff_cap: float = 122.0
    refresh: float = 10.0


@dataclass(frozen=True, slots=True)
class Host:
    """The node that pods run on: what a worker works with."""

    api: ApiClient
    runtime: Runtime
    volumes: Volumes
    events: Events
    images: podspec.Images
    addresses: addresses.Pool
    host_ip: str
    allocatable: Mapping[str, str]
    services: Mapping[str, str]
    timing: Timing = Timing()


@dataclass(slots=True)
class _Tries:
    """All containers made for one name, the oldest first; the last is the current one."""

    made: list[Container] = field(default_factory=list)

    @property
    def current(self) -> Container | None:
        return self.made[-1] if self.made else None

    @property
    def previous(self) -> Container | None:
        return self.made[-2] if len(self.made) > 1 else None


class Worker:
    """The one owner of a pod's containers and volumes. `run` returns when nothing of the pod is left."""

    def __init__(self, host: Host, uid: str, *, pod: Object | None, found: list[Container]) -> None:
        self._host = host
        self._uid = uid
        self.pod = pod
        self._wake = asyncio.Event()
        self._ending = asyncio.Event()
        self._tries: dict[str, _Tries] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._released: set[str] = set()
        self._passed_startup: set[str] = set()
        self._ready: set[str] = set()
        self._condemned: dict[str, str] = {}
        self._waiting: dict[str, tuple[str, str]] = {}
        self._paths: dict[str, Path] | None = None
        self._mount_delay = host.timing.mount_backoff
        self._refresh_at = 0.0
        self._cleaned = False
        self._initialized = False
        self._phase = "Pending"
        self._written: Object | None = None
        self._probing: dict[str, list[asyncio.Task[None]]] = {}
        timing = host.timing
        self._backoff = plan.Backoff(initial=timing.crash_backoff, cap=timing.crash_backoff_cap)
        for container in found:
            self._adopt(container)
        self.update(pod)

    # What others tell

    def update(self, pod: Object | None) -> None:
        """The API's newest word on the pod; None when it is gone from there."""
        before = self.pod
        if pod is not None:
            self.pod = pod
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            self._ending.set()
        elif before is not None and _informative(before) != _informative(pod):
            self._refresh_at = 0.0
        self._gone = pod is None
        self._wake.set()

    def current(self, name: str) -> Container | None:
        tries = self._tries.get(name)
        return tries.current if tries else None

    def previous(self, name: str) -> Container | None:
        tries = self._tries.get(name)
        return tries.previous if tries else None

    # Life

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                while not self._ending.is_set():
                    self._wake.clear()
                    pause = await self._step()
                    await self._sleep(pause)
            finally:
                self._stop_probing()
            await self._end()

    async def _sleep(self, pause: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def _step(self) -> float | None:
        """One round; returns when to look again at the latest, in seconds.

        1. Take note of containers that ended. 2. Make the volumes. 3. Decide. 4. End, then start containers.
        5. Say how things are.
        """
        assert self.pod is not None
        await self._note_ends()
        if self._is_over():
            return await self._rest()
        pause: float | None
        if (pause := await self._volumes()) is not None:
            await self._report()
            return pause
        decided = plan.decide(self.pod["spec"], self._observed(), self._restart_delay)
        self._phase, self._initialized = decided.phase, decided.initialized
        self._explain(decided)
        await self._kill_condemned()
        for name in decided.stop:
            await self._stop(name, self._grace)
        retry = [not await self._start(name, attempt) for name, attempt in decided.start]
        self._probe_all()
        reported = await self._report()
        if decided.start or decided.finished:
            self._wake.set()
        pauses = [self._host.timing.refresh if reported else 1.0]
        pauses += [decided.look_again] if decided.look_again is not None else []
        if any(retry):
            self._wake.clear()
            pauses.append(2.0)
        return min(pauses)

    def _is_over(self) -> bool:
        assert self.pod is not None
        over = {"Succeeded", "Failed"}
        if (self.pod.get("status") or {}).get("phase") in over and not self._running():
            self._phase = self.pod["status"]["phase"]
            return True
        return self._phase in over and not self._running()

    async def _rest(self) -> float | None:
        """A pod that is over holds no volumes, though its object stays until someone deletes it."""
        reported = await self._report()
        if not self._cleaned:
            try:
                await self._host.volumes.unmount_all(self._uid)
                self._cleaned = True
            except csi.CsiError as error:
                log.warning("worker: volumes stay pod=%s: %s", self._uid, error)
        return None if self._cleaned and reported else 2.0

    # Volumes

    async def _volumes(self) -> float | None:
        """Make all volumes, or return when to try again. An end that is asked for in between interrupts the wait."""
        assert self.pod is not None
        loop = asyncio.get_running_loop()
        if self._paths is not None:
            if loop.time() >= self._refresh_at:
                self._refresh_at = loop.time() + self._host.timing.refresh
                await self._host.volumes.refresh(self.pod, self._facts())
            return None
        attempt = asyncio.create_task(self._mount_all(), name=f"mount {self._uid}")
        ending = asyncio.create_task(self._ending.wait(), name=f"ending {self._uid}")
        try:
            await asyncio.wait({attempt, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (attempt, ending):
                task.cancel()
            await asyncio.wait({attempt, ending})
        if attempt.cancelled():
            return 0.0
        self._paths = attempt.result()
        self._refresh_at = loop.time() + self._host.timing.refresh
        if self._paths is not None:
            return None
        pause, self._mount_delay = self._mount_delay, min(self._mount_delay * 2, self._host.timing.mount_backoff_cap)
        return pause

    async def _mount_all(self) -> dict[str, Path] | None:
        assert self.pod is not None
        paths = {}
        for volume in self.pod["spec"].get("volumes") or ():
            try:
                paths[volume["name"]] = await self._host.volumes.mount(self.pod, volume, self._facts())
            except _MOUNT_PROBLEMS as error:
                words = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}'
                self._event("FailedMount", words, kind="Warning")
                return None
        return paths

    def _facts(self) -> environment.Facts:
        host = self._host
        return environment.Facts(self._pod_ip(), host.host_ip, host.allocatable, host.services)

    def _pod_ip(self) -> str:
        """Pods on the host's network have an address of their own here too, or two nodes' pods would collide."""
        return self._host.addresses.of(self._uid)

    # Containers

    def _adopt(self, container: Container) -> None:
        self._tries.setdefault(container.meta.name, _Tries()).made.append(container)
        ended = self._ended[container.meta.id] = asyncio.Event()

        def note() -> None:
            self._host.runtime.settle(container)
            ended.set()
            self._wake.set()

        if container.exit is None:
            self._host.runtime.when_ended(container, note)
            self._remember_ready(container)
        else:
            ended.set()

    def _remember_ready(self, container: Container) -> None:
        """A kubelet that starts again believes what it last wrote, until a probe says otherwise."""
        entries = ((self.pod or {}).get("status") or {}).get("containerStatuses") or ()
        for entry in entries:
            if entry.get("containerID", "").endswith(container.meta.id):
                self._ready |= {container.meta.id} if entry.get("ready") else set()
                self._passed_startup |= {container.meta.id} if entry.get("started") else set()

    def _running(self) -> list[Container]:
        return [tries.current for tries in self._tries.values() if tries.current and tries.current.exit is None]

    async def _note_ends(self) -> None:
        """Release what ended: once for each container, with its restart delay worked out from how long it ran."""
        for name, tries in self._tries.items():
            for container in tries.made:
                identity = container.meta.id
                if identity in self._released or not self._ended[identity].is_set():
                    continue
                self._released.add(identity)
                self._stop_probing(identity)
                loop = asyncio.get_running_loop()
                ended = container.exit
                self._backoff.ended(name, at=loop.time(), ran_for=_seconds_between(ended) if ended else 0.0)
                await self._host.runtime.release(container)

    def _observed(self) -> dict[str, plan.Observed]:
        seen = {}
        for name, tries in self._tries.items():
            if container := tries.current:
                ended = container.exit
                code = ended.code if ended else None
                seen[name] = plan.Observed(container.meta.attempt, code, self._has_started(container))
        return seen

    def _has_started(self, container: Container) -> bool:
        spec = self._spec_of(container.meta.name)
        return "startupProbe" not in spec or container.meta.id in self._passed_startup

    def _spec_of(self, name: str) -> Object:
        assert self.pod is not None
        everyone = [*(self.pod["spec"].get("initContainers") or ()), *self.pod["spec"]["containers"]]
        return next((container for container in everyone if container["name"] == name), {"name": name})

    def _restart_delay(self, name: str) -> float:
        return self._backoff.remaining(name, now=asyncio.get_running_loop().time())

    def _explain(self, decided: plan.Plan) -> None:
        """Why containers are not running, in the API's words."""
        assert self.pod is not None
        starting = {name for name, _ in decided.start}
        self._waiting = {name: why for name, why in self._waiting.items() if name in starting}
        if not decided.initialized and not decided.finished:
            for container in self.pod["spec"]["containers"]:
                self._waiting[container["name"]] = ("PodInitializing", "")
        metadata = self.pod["metadata"]
        for name in decided.backing_off:
            whole = round(self._restart_delay(name))
            where = f"container={name} pod={metadata['name']}_{metadata['namespace']}({self._uid})"
            if name not in self._waiting:
                self._event("BackOff", f"Back-off restarting failed container {name}", kind="Warning", container=name)
            self._waiting[name] = ("CrashLoopBackOff", f"back-off {whole}s restarting failed {where}")

    async def _start(self, name: str, attempt: int) -> bool:
        """Start one container; false if it could not even be described, which is tried again."""
        assert self.pod is not None
        if self._ending.is_set():
            return True
        spec = self._spec_of(name)
        image = spec.get("image", "")
        initial = any(each["name"] == name for each in self.pod["spec"].get("initContainers") or ())
        try:
            around = await self._surroundings(spec)
            make = partial(self._oci_spec, spec, around)
            await asyncio.to_thread(make, "")  # what is wrong with the description is known before anything is made
            self._event("Pulled", f'Container image "{image}" already present on machine', container=name)
            whose = {**{key: self.pod["metadata"][key] for key in ("namespace", "name")}, "uid": self._uid}
            container = await self._host.runtime.start(make, pod=whose, name=name, attempt=attempt, image=image, init=initial)
        except (environment.ConfigError, ApiError, OSError) as error:
            if self._waiting.get(name, ("", ""))[1] != str(error):
                self._event("Failed", f"Error: {error}", kind="Warning", container=name)
            self._waiting[name] = ("CreateContainerConfigError", str(error))
            return False
        self._waiting.pop(name, None)
        self._adopt(container)
        self._tell_start(container, name)
        await self._forget_old(name)
        await self._post_start(container, spec)
        return True

    def _oci_spec(self, spec: Object, around: podspec.Surroundings, cgroup: str) -> oci.ContainerSpec:
        assert self.pod is not None
        return podspec.build(self.pod, spec, around, images=self._host.images, cgroup=cgroup)

    def _tell_start(self, container: Container, name: str) -> None:
        ended = container.exit
        if ended and ended.reason == "StartError":
            self._event("Failed", f"Error: {ended.message}", kind="Warning", container=name)
            return
        self._event("Created", f"Created container: {name}", container=name)
        self._event("Started", f"Started container {name}", container=name)

    async def _forget_old(self, name: str) -> None:
        """Keep the current try and the one before it."""
        tries = self._tries[name]
        while len(tries.made) > 2:
            await self._host.runtime.remove(tries.made.pop(0))

    async def _post_start(self, container: Container, spec: Object) -> None:
        action = (spec.get("lifecycle") or {}).get("postStart") or {}
        if "exec" in action and container.exit is None:
            outcome = await self._host.runtime.execute(container, action["exec"]["command"], limit=60)
            if outcome.code != 0:
                self._event("FailedPostStartHook", outcome.errors or outcome.output, kind="Warning")
                await self._stop(spec["name"], lambda: 0.0)

    async def _surroundings(self, container: Object) -> podspec.Surroundings:
        """Environment, hosts file and termination log of a container that is about to start."""
        assert self.pod is not None
        sources = await self._sources(container)
        known = environment.variables(self.pod, container, self._facts(), sources)
        folder = self._host.volumes.pod_directory(self._uid)
        log_file = folder / "containers" / container["name"] / "termination-log"
        hosts = folder / "etc-hosts"
        _prepare_files(hosts, self._hosts_text(), log_file)
        return podspec.Surroundings(self._paths or {}, known, hosts, log_file)

    def _hosts_text(self) -> str:
        assert self.pod is not None
        lines = ["# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost"]
        lines.append(f"{self._pod_ip()}\t{podspec.hostname(self.pod)}")
        aliases = self.pod["spec"].get("hostAliases") or ()
        lines += ["\t".join([alias["ip"], *alias.get("hostnames", ())]) for alias in aliases]
        return "\n".join(lines) + "\n"

    async def _sources(self, container: Object) -> environment.Sources:
        """The Secrets and ConfigMaps that a container's environment names, and no others."""
        assert self.pod is not None
        secrets: dict[str, Object | None] = {}
        config_maps: dict[str, Object | None] = {}
        references = [source for source in container.get("envFrom") or ()]
        references += [variable.get("valueFrom") or {} for variable in container.get("env") or ()]
        for reference in references:
            for kind in ("secretRef", "secretKeyRef"):
                if kind in reference:
                    name = reference[kind]["name"]
                    secrets[name] = await self._host.volumes.secret(self.pod, name)
            for kind in ("configMapRef", "configMapKeyRef"):
                if kind in reference:
                    name = reference[kind]["name"]
                    config_maps[name] = await self._host.volumes.config_map(self.pod, name)
        return environment.Sources(config_maps, secrets)

    # Ending

    @property
    def _grace(self) -> Callable[[], float]:
        """Seconds that the pod's containers are given; asked again and again, since a second delete may shorten it."""

        def seconds() -> float:
            if self.pod is None:
                return ORPHAN_GRACE
            default = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
            given = self.pod["metadata"].get("deletionGracePeriodSeconds")
            return float(max(1, default if given is None else given))

        return seconds

    async def _end(self) -> None:
        """Away with the pod, in kubelet's order.

        1. End the containers: all but the sidecars together, then the sidecars, the last one first.
        2. Say that they ended.
        3. Take the volumes away, however often it must be tried.
        4. Remove containers, addresses, directories.
        5. Delete the object for good.
        """
        await self._report()
        await self._end_containers()
        await self._note_ends()
        self._phase = self._final_phase()
        await self._report()
        await self._take_volumes_away()
        for tries in self._tries.values():
            for container in tries.made:
                await self._host.runtime.remove(container)
        await self._host.runtime.forget_pod(self._uid)
        while not await asyncio.to_thread(self._host.volumes.remove_pod_directory, self._uid):
            log.error("worker: the pod's directory is not empty pod=%s", self._uid)
            await asyncio.sleep(2)
        await self._delete_object()
        self._host.addresses.release(self._uid)

    async def _end_containers(self) -> None:
        initial = [container["name"] for container in (self.pod or {"spec": {}})["spec"].get("initContainers") or ()]
        others = [name for name in self._tries if name not in initial]
        async with asyncio.TaskGroup() as tasks:
            for name in others:
                tasks.create_task(self._stop(name, self._grace), name=f"stop {name}")
        for name in reversed(initial):
            await self._stop(name, self._grace)

    async def _stop(self, name: str, grace: Callable[[], float]) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace is over; returns when the container has ended."""
        container = self.current(name)
        if container is None or container.exit is not None:
            return
        self._event("Killing", f"Stopping container {name}", container=name)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await self._pre_stop(container, grace())
        await self._host.runtime.signal(container, signal.SIGTERM)
        ended = self._ended[container.meta.id]
        while not ended.is_set() and (left := begin + grace() - loop.time()) > 0:
            await _within(ended.wait(), min(left, 1.0))
        while not ended.is_set():
            await self._host.runtime.signal(container, signal.SIGKILL)
            await _within(ended.wait(), 5.0)

    async def _pre_stop(self, container: Container, seconds: float) -> None:
        if self.pod is None:
            return
        action = (self._spec_of(container.meta.name).get("lifecycle") or {}).get("preStop") or {}
        if "sleep" in action:
            await _within(self._ended[container.meta.id].wait(), min(seconds, action["sleep"]["seconds"]))
        if "exec" in action:
            try:
                outcome = await self._host.runtime.execute(container, action["exec"]["command"], limit=seconds)
            except TimeoutError:
                return
            if outcome.code != 0:
                self._event("FailedPreStopHook", outcome.errors or outcome.output, kind="Warning")

    async def _kill_condemned(self) -> None:
        for identity, why in list(self._condemned.items()):
            del self._condemned[identity]
            for name, tries in self._tries.items():
                if tries.current and tries.current.meta.id == identity and tries.current.exit is None:
                    self._event("Killing", why, container=name)
                    await self._stop(name, self._grace)
        self._wake_if_ended()

    def _wake_if_ended(self) -> None:
        if any(self._ended[each.meta.id].is_set() and each.meta.id not in self._released for each in self._all()):
            self._wake.set()

    def _all(self) -> list[Container]:
        return [container for tries in self._tries.values() for container in tries.made]

    def _final_phase(self) -> str:
        ends = [tries.current.exit for tries in self._tries.values() if tries.current]
        return "Succeeded" if ends and all(end and end.code == 0 for end in ends) else "Failed"

    async def _take_volumes_away(self) -> None:
        delay = self._host.timing.mount_backoff
        while True:
            try:
                await self._host.volumes.unmount_all(self._uid)
                return
            except (csi.CsiError, OSError) as error:
                log.warning("worker: volumes stay pod=%s: %s", self._uid, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._host.timing.mount_backoff_cap)

    async def _delete_object(self) -> None:
        """The last word to the API server; it is waited for, but an object that is another's is left alone."""
        if self.pod is None:
            return
        metadata = self.pod["metadata"]
        url = path("v1", "pods", namespace=metadata["namespace"], name=metadata["name"])
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        body["preconditions"] = {"uid": self._uid}
        while not self._gone:
            try:
                await self._host.api.delete(url, body)
                return
            except ApiError as error:
                if error.code in {404, 409}:
                    return
                log.warning("worker: not deleted pod=%s: %s", self._uid, error)
            except (OSError, TimeoutError, aiohttp.ClientError) as error:
                log.info("worker: not deleted yet pod=%s: %r", self._uid, error)
            await asyncio.sleep(1)

    # Probes

    def _probe_all(self) -> None:
        for container in self._running():
            if container.meta.id not in self._probing:
                self._probing[container.meta.id] = []
                self._probe(container)

    def _probe(self, container: Container) -> None:
        """The startup probe first; the others when it has passed."""
        spec = self._spec_of(container.meta.name)
        if "startupProbe" in spec and container.meta.id not in self._passed_startup:
            self._launch(container, "startup", spec["startupProbe"], passed=partial(self._startup_passed, container))
            return
        if "readinessProbe" in spec:
            ready = partial(self._set_ready, container, holds=True)
            self._launch(container, "readiness", spec["readinessProbe"], passed=ready)
        if "livenessProbe" in spec:
            self._launch(container, "liveness", spec["livenessProbe"], passed=lambda: None)

    def _launch(self, container: Container, kind: str, spec: Object, *, passed: Callable[[], None]) -> None:
        described = self._spec_of(container.meta.name)
        probe = probes.Probe.of(spec, described, host=self._pod_ip())
        watching = probes.watch(
            probe,
            partial(self._execute, container),
            passed=passed,
            failed=partial(self._probe_failed, container, kind),
            once=kind == "startup",
        )
        task = self._tasks.create_task(watching, name=f"{kind} {container.meta.name} {self._uid}")
        self._probing[container.meta.id].append(task)

    async def _execute(self, container: Container, command: list[str], limit: float) -> tuple[int, str]:
        outcome = await self._host.runtime.execute(container, command, limit=limit)
        return outcome.code, outcome.output + outcome.errors

    def _startup_passed(self, container: Container) -> None:
        self._passed_startup.add(container.meta.id)
        self._probe(container)
        self._wake.set()

    def _set_ready(self, container: Container, *, holds: bool) -> None:
        before = set(self._ready)
        self._ready = self._ready | {container.meta.id} if holds else self._ready - {container.meta.id}
        if self._ready != before:
            self._wake.set()

    def _probe_failed(self, container: Container, kind: str, message: str) -> None:
        name = container.meta.name
        self._event("Unhealthy", f"{kind.capitalize()} probe failed: {message}", kind="Warning", container=name)
        if kind == "readiness":
            self._set_ready(container, holds=False)
        else:
            self._condemned[container.meta.id] = f"Container {name} failed {kind} probe, will be restarted"
            self._wake.set()

    def _stop_probing(self, identity: str = "") -> None:
        for each in [identity] if identity else list(self._probing):
            for task in self._probing.pop(each, ()):
                task.cancel()

    # Telling

    def _event(self, reason: str, message: str, *, kind: str = "Normal", container: str = "") -> None:
        if self.pod is not None:
            self._host.events.record(self.pod, reason, message, kind=kind, container=container)

    async def _report(self) -> bool:
        """Write the status if it changed; false if it must be written again."""
        if self.pod is None or self._gone:
            return True
        wanted = status.status(self.pod, self._view())
        if wanted == self._written:
            return True
        metadata = self.pod["metadata"]
        url = path("v1", "pods", namespace=metadata["namespace"], name=metadata["name"], sub="status")
        try:
            await self._host.api.patch(url, {"metadata": {"uid": self._uid}, "status": wanted})
        except (ApiError, OSError, TimeoutError, aiohttp.ClientError) as error:
            log.info("worker: status not written pod=%s: %r", self._uid, error)
            return isinstance(error, ApiError) and error.code in {404, 409}
        self._written = wanted
        return True

    def _view(self) -> status.PodView:
        assert self.pod is not None
        seen = {name: self._container_view(name, tries) for name, tries in self._tries.items()}
        for name, (reason, message) in self._waiting.items():
            seen[name] = replace(seen.get(name, status.ContainerView()), waiting=reason, message=message, ready=False)
        return status.PodView(self._phase, self._initialized, self._pod_ip(), self._host.host_ip, seen)

    def _container_view(self, name: str, tries: _Tries) -> status.ContainerView:
        current, previous = tries.current, tries.previous
        assert current is not None
        ended = self._exit_of(current)
        running = ended is None
        started = running and self._has_started(current)
        return status.ContainerView(
            current=current,
            previous=previous,
            ended=ended,
            ended_before=self._exit_of(previous) if previous else None,
            ready=self._is_ready(current, started=started, ended=ended),
            started=started,
        )

    def _is_ready(self, container: Container, *, started: bool, ended: Exit | None) -> bool:
        if ended is not None:
            return container.meta.init and ended.code == 0
        return started and ("readinessProbe" not in self._spec_of(container.meta.name) or container.meta.id in self._ready)

    def _exit_of(self, container: Container) -> Exit | None:
        """How a container ended, with its last words: the termination log, else, if it asks for that, its output."""
        ended = container.exit
        if ended is None or ended.message:
            return ended
        folder = self._host.volumes.pod_directory(self._uid) / "containers" / container.meta.name
        said = _tail(folder / "termination-log")
        fallback = self._spec_of(container.meta.name).get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if not said and fallback and ended.code != 0:
            said = "\n".join(line.partition(" ")[2][9:] for line in _tail(Path(container.meta.log)).splitlines()[-80:])
        return replace(ended, message=said) if said else ended


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


def _informative(pod: Object) -> tuple[object, object]:
    """What the downward API shows of a pod that may change while it runs."""
    return pod["metadata"].get("labels"), pod["metadata"].get("annotations")


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
