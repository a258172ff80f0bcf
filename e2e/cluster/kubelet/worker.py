"""One pod on this node, from the first volume to the last: a loop that looks, decides and acts, then waits to be woken.

A worker keeps nothing that matters in memory: containers, volumes and addresses are found on disk, the pod in the API.
So a kubelet may be killed between any two lines, and the next one goes on. What to do next is decided in `plan`, what
to say about it in `status`; `containers` and `volumes` carry it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from pathlib import Path

import aiohttp

from e2e.cluster.api import ApiError, Object, path
from e2e.cluster.kubelet import csi, environment, plan, status
from e2e.cluster.kubelet.containers import Containers
from e2e.cluster.kubelet.host import Host
from e2e.cluster.kubelet.runtime import Container
from e2e.cluster.kubelet.volumes import MountError

log = logging.getLogger(__name__)

ORPHAN_GRACE = 2.0  # seconds for containers whose pod is gone from the API
CONFIG_RETRY = 2.0  # seconds until a container that could not be configured is tried again
REPORT_RETRY = 1.0
EVICTION_GRACE = 1.0  # seconds
EVICTED = "The node was low on resource: ephemeral-storage."

_OVER = {"Succeeded", "Failed"}
_AWAY = (OSError, TimeoutError, aiohttp.ClientError)
_MOUNT_PROBLEMS = (MountError, environment.ConfigError, csi.CsiError, ApiError, *_AWAY)


class Worker:
    """The one owner of a pod's containers and volumes. `run` returns when nothing of the pod is left."""

    def __init__(self, host: Host, uid: str, *, pod: Object | None, found: list[Container]) -> None:
        self._host = host
        self._uid = uid
        self._wake = asyncio.Event()
        self._ending = asyncio.Event()
        self._gone = False
        self._paths: dict[str, Path] | None = None
        self._mount_delay = host.timing.mount_backoff
        self._refresh_at = 0.0
        self._cleaned = False
        self._initialized = False
        self._phase = "Pending"
        self._evicted = False
        self._waiting: dict[str, tuple[str, str]] = {}
        self._written: Object | None = None
        self.pod = pod
        self._containers = Containers(host, uid, pod=pod, wake=self._wake.set)
        for container in found:
            self._containers.adopt(container)
        self.update(pod)

    # What others ask and tell

    def update(self, pod: Object | None) -> None:
        """The API's newest word on the pod; None when it is gone from there."""
        before = self.pod
        if pod is not None:
            self.pod = self._containers.pod = pod
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            self._ending.set()
        elif before is not None and _informative(before) != _informative(pod):
            self._refresh_at = 0.0
        self._gone = pod is None
        self._wake.set()

    def current(self, name: str) -> Container | None:
        return self._containers.current(name)

    def previous(self, name: str) -> Container | None:
        return self._containers.previous(name)

    # Life

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            try:
                while not self._ending.is_set():
                    self._wake.clear()
                    await self._sleep(await self._step(tasks))
            finally:
                self._containers.probing.stop()
            await self._end()

    async def _sleep(self, pause: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def _step(self, tasks: asyncio.TaskGroup) -> float | None:
        """One round; returns when to look again at the latest, in seconds.

        1. Take note of containers that ended. 2. Make the volumes. 3. Decide. 4. End, then start containers.
        5. Say how things are.
        """
        assert self.pod is not None
        await self._containers.note_ends()
        await self._evict_if_told()
        if self._is_over():
            return await self._rest()
        pause = await self._make_volumes()
        if pause is not None:
            await self._report()
            return pause
        decided = plan.decide(self.pod["spec"], self._containers.observed(), self._containers.restart_delay)
        self._phase, self._initialized = decided.phase, decided.initialized
        await self._containers.kill_condemned(self._grace)
        for name in decided.stop:
            await self._containers.stop(name, self._grace)
        started = await self._start_all(decided)
        self._containers.watch_all(tasks)
        self._explain(decided)
        reported = await self._report()
        if started or decided.stop or (decided.finished and not self._cleaned):
            self._wake.set()
        pauses = [self._host.timing.refresh, decided.look_again, None if reported else REPORT_RETRY]
        pauses.append(CONFIG_RETRY if self._containers.refused else None)
        return min(each for each in pauses if each is not None)

    async def _start_all(self, decided: plan.Plan) -> bool:
        """Whether any container was started. An end that was asked for meanwhile keeps the rest from starting."""
        assert self._paths is not None
        started = False
        for name, attempt in decided.start:
            if not self._ending.is_set():
                started |= await self._containers.start(name, attempt, volumes=self._paths)
        return started

    async def _evict_if_told(self) -> None:
        """What kubelet does under pressure: the containers end without much grace, the pod is Failed, and its object stays."""
        order = self._host.evictions / self._uid
        if self.pod is None or not order.exists():
            return
        await self._containers.stop_all(lambda: EVICTION_GRACE)
        await self._containers.note_ends()
        self._phase, self._evicted = "Failed", True
        self._host.events.record(self.pod, "Evicted", EVICTED, kind="Warning")
        order.unlink()

    def _is_over(self) -> bool:
        """Whether the pod has come to its end by itself, now or before this kubelet began."""
        assert self.pod is not None
        if self._containers.running():
            return False
        before = (self.pod.get("status") or {}).get("phase")
        if before in _OVER:
            self._phase, self._initialized = before, True
        return self._phase in _OVER

    async def _rest(self) -> float | None:
        """A pod that is over holds no volumes, though its object stays until someone deletes it."""
        self._waiting.clear()
        reported = await self._report()
        if not self._cleaned:
            try:
                await self._host.volumes.unmount_all(self._uid)
                self._cleaned = True
            except csi.CsiError as error:
                log.warning("worker: volumes stay pod=%s: %s", self._uid, error)
        return None if self._cleaned and reported else CONFIG_RETRY

    def _explain(self, decided: plan.Plan) -> None:
        """Why containers are not running, in the API's words."""
        assert self.pod is not None
        metadata = self.pod["metadata"]
        waiting = {name: ("CreateContainerConfigError", why) for name, why in self._containers.refused.items()}
        if not decided.initialized and not decided.finished:
            waiting |= {container["name"]: ("PodInitializing", "") for container in self.pod["spec"]["containers"]}
        for name in decided.backing_off:
            seconds = round(self._containers.restart_delay(name))
            where = f"container={name} pod={metadata['name']}_{metadata['namespace']}({self._uid})"
            waiting[name] = ("CrashLoopBackOff", f"back-off {seconds}s restarting failed {where}")
            if self._waiting.get(name, ("", ""))[0] != "CrashLoopBackOff":
                message = f"Back-off restarting failed container {name}"
                self._host.events.record(self.pod, "BackOff", message, kind="Warning", container=name)
            else:
                waiting[name] = self._waiting[name]  # the seconds that it began with: a status is not a countdown
        self._waiting = waiting

    # Volumes

    async def _make_volumes(self) -> float | None:
        """Make all volumes, or return when to try again. An end that is asked for in between interrupts the wait."""
        assert self.pod is not None
        now = asyncio.get_running_loop().time()
        if self._paths is not None:
            if now >= self._refresh_at:
                self._refresh_at = now + self._host.timing.refresh
                await self._host.volumes.refresh(self.pod, self._host.facts(self._uid))
            return None
        self._paths = await self._unless_ending()
        self._refresh_at = now + self._host.timing.refresh
        if self._paths is not None:
            return None
        pause, self._mount_delay = self._mount_delay, min(self._mount_delay * 2, self._host.timing.mount_backoff_cap)
        return pause

    async def _unless_ending(self) -> dict[str, Path] | None:
        """The mounts, given up when the pod is to end: a driver may take two minutes to answer."""
        attempt = asyncio.create_task(self._mount_all(), name=f"mount {self._uid}")
        ending = asyncio.create_task(self._ending.wait(), name=f"ending {self._uid}")
        try:
            await asyncio.wait({attempt, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            attempt.cancel()
            ending.cancel()
            await asyncio.wait({attempt, ending})
        return None if attempt.cancelled() else attempt.result()

    async def _mount_all(self) -> dict[str, Path] | None:
        assert self.pod is not None
        paths = {}
        for volume in self.pod["spec"].get("volumes") or ():
            try:
                paths[volume["name"]] = await self._host.volumes.mount(self.pod, volume, self._host.facts(self._uid))
            except _MOUNT_PROBLEMS as error:
                message = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}'
                self._host.events.record(self.pod, "FailedMount", message, kind="Warning")
                return None
        return paths

    # Ending

    def _grace(self) -> float:
        if self.pod is None:
            return ORPHAN_GRACE
        default = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        given = self.pod["metadata"].get("deletionGracePeriodSeconds")
        return float(max(1, default if given is None else given))

    async def _end(self) -> None:
        """Away with the pod, in kubelet's order.

        1. End the containers.
        2. Say that they ended.
        3. Take the volumes away, however often it must be tried.
        4. Remove containers, cgroups, directories.
        5. Delete the object for good. 6. Only then may the address be another pod's.
        """
        await self._report()
        grace = self._grace()  # what kubelet was told first: it does not hear of a shorter one (its SyncTerminatingPod)
        await self._containers.stop_all(lambda: grace)
        await self._containers.note_ends()
        self._waiting.clear()
        self._phase = self._final_phase()
        await self._report()
        await self._take_volumes_away()
        await self._containers.remove_all()
        while not await asyncio.to_thread(self._host.volumes.remove_pod_directory, self._uid):
            log.error("worker: the pod's directory is not empty pod=%s", self._uid)
            await asyncio.sleep(2)
        await self._delete_object()
        self._host.addresses.release(self._uid)

    def _final_phase(self) -> str:
        codes = [seen.code for seen in self._containers.observed().values()]
        return "Succeeded" if codes and not any(codes) else "Failed"

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
        """The last word to the API server, until it has taken it. That the object is another's by now comes as a 409, as other
        things do, and is heard of by the watch too."""
        if self.pod is None:
            return
        metadata = self.pod["metadata"]
        url = path("v1", "pods", namespace=metadata["namespace"], name=metadata["name"])
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._uid}}
        while not self._gone:
            try:
                await self._host.api.delete(url, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
                return
            except ApiError as error:
                if error.code == 404:
                    return
                log.warning("worker: not deleted pod=%s: %s", self._uid, error)
            except _AWAY as error:
                log.info("worker: not deleted yet pod=%s: %r", self._uid, error)
            await asyncio.sleep(1)

    # Telling

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
        except ApiError as error:
            log.info("worker: status not written pod=%s: %s", self._uid, error)
            return error.code == 404
        except _AWAY as error:
            log.info("worker: status not written pod=%s: %r", self._uid, error)
            return False
        self._written = wanted
        return True

    def _view(self) -> status.PodView:
        seen = self._containers.views()
        for name, (reason, message) in self._waiting.items():
            seen[name] = replace(seen.get(name, status.ContainerView()), waiting=reason, message=message, ready=False)
        pod_ip = self._host.pod_ip(self._uid)
        reason, message = ("Evicted", EVICTED) if self._evicted else ("", "")
        return status.PodView(self._phase, self._initialized, pod_ip, self._host.host_ip, seen, reason, message)


def _informative(pod: Object) -> tuple[object, object]:
    """What the downward API shows of a pod that may change while it runs."""
    return pod["metadata"].get("labels"), pod["metadata"].get("annotations")
