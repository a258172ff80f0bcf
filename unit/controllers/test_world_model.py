"""Whatever users, nodes and misfortunes do, in any order, and wherever processes end: one right set of mounts comes of it.

The controllers are the real ones, on a registry that runs in virtual time. What is right is said by `Right`, from the objects as
they are stored: it knows no code of ours, and takes no notice of how things came to be.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import looptime
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.identity import Workload
from dynvol.api.resources import CLASSES, PODS
from dynvol.kube.connection import Connection
from dynvol.kube.errors import AlreadyExists, Forbidden, Invalid, NotFound
from unit.examples import examples

from .node_played import STATE
from .registered import Registered, Schemas
from .world import CRDS, Process, World
from .world import world as a_world

T = TypeVar("T")
Object = dict[str, Any]

PATIENCE = 900.0
"""Virtual seconds in which the world must have become right. The longest pause between two looks is five minutes."""
REST = 100.0
"""Virtual seconds for which it must then stay so."""


@cache
def schemas() -> Schemas:
    with tempfile.TemporaryDirectory() as directory:
        return Schemas(CRDS, Path(directory, "types.json"))


class Right:
    """What should be, worked out from the stored objects."""

    def __init__(self, registered: Registered, world: World) -> None:
        def stored(resource: str, namespace: str = "") -> list[Object]:
            return [o for o in registered.objects(resource) if o["metadata"].get("namespace", "") == namespace]

        self.claims = stored(f"{names.GROUP}/dynamicvolumeclaims", world.namespace)
        self.classes = stored(f"{names.GROUP}/storageproviderclasses")
        self.pods = stored("/pods", world.namespace)
        self.mount_pods = stored("/pods", world.driver)
        self.secrets = stored("/secrets", world.driver)
        self.table = world.table
        self.mounts: dict[PurePosixPath, Object] = {}
        """Place in the mount table → the claim that should be there."""
        self.refused: list[tuple[str, str]] = []
        """(claim, pod) where an older claim, or no class, is in the way."""
        for pod in self.pods:
            policy = pod["spec"]["volumes"][0]["csi"]["volumeAttributes"][names.POLICY_ATTRIBUTE]
            whose = "" if policy == names.SHARED else _uid(pod)
            served = Workload(world.node, world.namespace, world.provider_class, policy, whose)
            self._fill(PurePosixPath(served.root(STATE), _uid(pod)), pod)

    def _fill(self, directory: PurePosixPath, pod: Object) -> None:
        taken: list[str] = []
        for claim in sorted(self.claims, key=lambda c: (c["metadata"]["creationTimestamp"], c["metadata"]["name"])):
            if not self._reaches(claim, pod):
                continue
            place = claim["spec"]["mountpoint"]
            if not self.classes or any(f"{place}/".startswith(f"{t}/") or f"{t}/".startswith(f"{place}/") for t in taken):
                self.refused.append((_uid(claim), _uid(pod)))
            else:
                taken.append(place)
                self.mounts[directory / place[1:]] = claim

    def _reaches(self, claim: Object, pod: Object) -> bool:
        labels = pod["metadata"]["labels"].items()
        wanted = claim["spec"]["selector"].get("matchLabels", {}).items()
        ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        return wanted <= labels and not ended and "deletionTimestamp" not in claim["metadata"]

    def wrong(self) -> str:
        """What is not as it should be; empty when all is."""
        return next((f"{what.__name__[1:]}: {found}" for what in self._aspects() if (found := what())), "")

    def _aspects(self) -> Iterator[Callable[[], object]]:
        yield from (self._mounts, self._parameters, self._mount_pods, self._secret_copies, self._directories)
        yield from (self._claims, self._entries, self._sums, self._classes)

    def _mounts(self) -> object:
        found = {path: self._named(source) or self._served(path) for path, source in self.table.mounts.items()}
        wanted = {path: _uid(claim) for path, claim in self.mounts.items()}
        return found != wanted and (found, wanted)

    def _named(self, source: str) -> str:
        """The claim's uid, if the source names one."""
        name = source.removeprefix("dynvol-")
        return "" if name.startswith("shared-") else name.rpartition("-")[0]

    def _served(self, path: PurePosixPath) -> str:
        """Whose a mount is that does not say so: the mount pod must have been told."""
        one = self._told(path)
        return str(one["claimUid"]) if one and self.table.mounts[path] == _shared(one) else ""

    def _told(self, path: PurePosixPath) -> Object | None:
        annotations = [pod["metadata"]["annotations"] for pod in self.mount_pods]
        every = (one for found in annotations for one in json.loads(found[names.WANTED_ANNOTATION]))
        return next((one for one in every if one["path"] == "/".join(path.parts[5:])), None)

    def _parameters(self) -> object:
        """That which is mounted is what the claim says now."""
        buckets = {}
        for path in self.mounts:
            one = self._told(path)
            if one and self.table.mounts[path] in (f"dynvol-{one['claimUid']}-{one['specHash']}", _shared(one)):
                buckets[path] = one["parameters"]["bucket"]
        wanted = {path: claim["spec"]["s3Config"]["bucket"] for path, claim in self.mounts.items()}
        return buckets != wanted and (buckets, wanted)

    def _mount_pods(self) -> object:
        found = sorted(pod["metadata"]["labels"][names.MOUNT_POD_LABEL] for pod in self.mount_pods)
        wanted = sorted({path.parts[4] for path in self.mounts})
        return found != wanted and (found, wanted)

    def _secret_copies(self) -> object:
        """One for each mount pod, and its own; others only where a garbage collector, which there is none of here, would come."""
        pods = {_uid(pod) for pod in self.mount_pods}
        owners = [{owner["uid"] for owner in secret["metadata"].get("ownerReferences", [])} for secret in self.secrets]
        return any(not o for o in owners) or sorted(u for o in owners for u in o & pods) != sorted(pods)

    def _directories(self) -> object:
        pods = {_uid(pod) for pod in self.pods}
        return {pod for held in self.table.directories.values() for pod in held} - pods or [
            root for root, held in self.table.directories.items() if not held
        ]

    def _claims(self) -> object:
        return [c["metadata"]["name"] for c in self.claims if "deletionTimestamp" in c["metadata"]]

    def _entries(self) -> object:
        found = {(_uid(c), e["uid"]): e["phase"] for c in self.claims for e in c.get("status", {}).get("pods", [])}
        wanted = {(_uid(claim), path.parts[5]): "Mounted" for path, claim in self.mounts.items()}
        wanted |= dict.fromkeys(self.refused, "Conflict" if self.classes else "Failed")
        return found != wanted and (found, wanted)

    def _sums(self) -> object:
        """What users see first."""
        for claim in self.claims:
            mounted = sum(c is claim for c in self.mounts.values())
            all_of_them = mounted + sum(uid == _uid(claim) for uid, _ in self.refused)
            status = claim.get("status", {})
            ready = {c["type"]: c["status"] for c in status.get("conditions", [])}.get("Ready")
            # Without its class a pod counts as reached by its node, and the leader hears of it by that.
            if (status.get("summary"), ready) != (f"{mounted}/{all_of_them}", str(0 < mounted == all_of_them)):
                return claim["metadata"]["name"], status, mounted, all_of_them
        return None

    def _classes(self) -> object:
        """One that is being deleted stays as long as a pod uses it."""
        users = any(pod.get("status", {}).get("phase") not in ("Succeeded", "Failed") for pod in self.pods)
        return not users and [c["metadata"]["name"] for c in self.classes if "deletionTimestamp" in c["metadata"]]


def _shared(told: Object) -> str:
    return f"dynvol-shared-{told['client']}" if "client" in told else ""


def _uid(body: Object) -> str:
    return str(body["metadata"]["uid"])


class Life:
    """A context that is entered and left at different times, by a task of its own."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._leave = asyncio.Event()
        self._entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        try:
            async with self._context as value:
                self._entered.set_result(value)
                await self._leave.wait()
        except BaseException as error:
            if not self._entered.done():
                self._entered.set_exception(error)
            raise

    async def begun(self) -> Any:
        return await asyncio.shield(self._entered)

    def leave(self) -> None:
        self._leave.set()

    async def left(self) -> None:
        self._leave.set()
        await self._task


claims = st.sampled_from(["a", "b", "c"])
pods = st.sampled_from(["p", "q"])
apps = st.sampled_from(["web", "web", "db"])
places = st.sampled_from(["/data", "/data/deep", "/other"])
buckets = st.sampled_from(["one", "two"])


class WorldMachine(RuleBasedStateMachine):
    """Users' acts are rules, misfortunes too. At the end the misfortunes stop, and all must become right."""

    def __init__(self) -> None:
        super().__init__()
        # A process that ends half way has much to say, and an example many such ends.
        logging.disable(logging.CRITICAL)
        self.loop = looptime.new_event_loop(start=0)
        self.registered = Registered(schemas())
        self.process: Life | None = None
        self.running: Process | None = None

    def do(self, work: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(100_000):
                return await work

        return self.loop.run_until_complete(bounded())

    def teardown(self) -> None:
        try:
            self.do(self.come_to_rest())
        finally:
            self.do(self.end())
            self.registered.close()
            self.loop.close()
            logging.disable(logging.NOTSET)

    @initialize(settled=st.booleans())
    def a_claim_reaches_a_pod(self, settled: bool) -> None:
        async def begin() -> None:
            @asynccontextmanager
            async def connect() -> AsyncIterator[Connection]:
                yield self.registered.connection()

            self.life = Life(a_world(connect))
            self.world: World = await self.life.begun()
            await self.start()
            await self.world.add_class()
            await self.world.add_pod("p")
            await self.world.add_claim("a", mountpoint="/data")
            if settled:
                await self.world.until(lambda: not self.wrong(), within=PATIENCE)

        self.do(begin())

    async def end(self) -> None:
        await self.stop()
        await self.life.left()

    # --- The node process

    async def start(self, cut_at: int = 0, after: bool = False) -> None:
        self.process = Life(self.world.process(cut_at=cut_at, after=after))
        self.running = await self.process.begun()
        assert self.running is not None
        self.watcher = asyncio.create_task(self._die_when_cut(self.process, self.running))

    async def _die_when_cut(self, process: Life, running: Process) -> None:
        await running.wire.cut.wait()
        process.leave()

    async def stop(self) -> None:
        if self.process is not None:
            self.watcher.cancel()
            await self.process.left()
        self.process = self.running = None

    @rule(writes=st.integers(1, 6), after=st.booleans())
    def it_is_to_end_at_a_write(self, writes: int, after: bool) -> None:
        if self.running is not None:
            wire = self.running.wire
            wire.cut_at, wire.after = len(wire.writes) + writes, after

    @rule()
    def it_is_killed(self) -> None:
        self.do(self.stop())

    @rule(cut_at=st.sampled_from([0, 0, 1, 2, 3, 5]), after=st.booleans())
    def it_starts_anew(self, cut_at: int, after: bool) -> None:
        self.do(self.stop())
        self.do(self.start(cut_at, after))

    @rule(flows=st.booleans())
    def news_of_mount_pods_is_held_up(self, flows: bool) -> None:
        if self.running is not None:
            gate = self.running.wire.flowing
            gate.set() if flows else gate.clear()

    @rule(seconds=st.sampled_from([0.001, 0.01, 1, 12, 60]))
    def time_passes(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    # --- Users

    @rule(name=claims, place=places, app=apps, bucket=buckets)
    def a_claim_is_made(self, name: str, place: str, app: str, bucket: str) -> None:
        self.do(self.refusable(self.world.add_claim(name, mountpoint=place, labels={"app": app}, bucket=bucket)))

    @rule(name=claims, place=places, bucket=buckets)
    def a_claim_is_changed(self, name: str, place: str, bucket: str) -> None:
        self.do(self.refusable(self.world.edit(name, mountpoint=place, s3Config={"bucket": bucket})))

    @rule(name=claims, app=apps)
    def a_claim_selects_others(self, name: str, app: str) -> None:
        self.do(self.refusable(self.world.edit(name, selector={"matchLabels": {"app": app}})))

    @rule(name=claims)
    def a_claim_is_deleted(self, name: str) -> None:
        self.do(self.refusable(self.world.delete_claim(name)))

    @rule(name=pods, app=apps, shared=st.booleans())
    def a_pod_comes(self, name: str, app: str, shared: bool) -> None:
        policy = names.SHARED if shared else names.INDEPENDENT
        self.do(self.refusable(self.world.add_pod(name, policy=policy, app=app)))

    @rule(name=pods, app=apps)
    def a_pod_is_labelled(self, name: str, app: str) -> None:
        self.do(self.patch(name, {"metadata": {"labels": {"app": app}}}))

    @rule(name=pods)
    def a_pod_completes(self, name: str) -> None:
        self.do(self.patch(name, {"status": {"phase": "Succeeded"}}, subresource="status"))

    async def patch(self, name: str, body: Object, *, subresource: str = "") -> None:
        patch = self.world.admin.merge_patch(PODS, name, body, namespace=self.world.namespace, subresource=subresource)
        await self.refusable(patch)

    @rule(name=pods, unpublished=st.booleans())
    def a_pod_goes(self, name: str, unpublished: bool) -> None:
        """Where it was deleted by force, kubelet unpublishes after it has gone."""

        async def go() -> None:
            pod = await self.world.admin.get(PODS, name, namespace=self.world.namespace)
            if not unpublished:
                await self.world.admin.delete(PODS, name, namespace=self.world.namespace, grace_seconds=0)
                await asyncio.sleep(1)
            with suppress(NotFound):
                await self.world.end_pod(pod)

        self.do(self.refusable(go()))

    @rule()
    def the_class_is_deleted(self) -> None:
        self.do(self.refusable(self.world.admin.delete(CLASSES, self.world.provider_class)))

    @rule()
    def the_class_is_made(self) -> None:
        self.do(self.refusable(self.world.add_class(secret=False)))

    @rule(there=st.booleans())
    def the_secret_comes_or_goes(self, there: bool) -> None:
        self.do(self.refusable(self.world.add_secret() if there else self.world.drop_secret()))

    # --- Misfortunes of mount pods

    @precondition(lambda self: self.mount_pods())
    @rule(data=st.data(), how=st.sampled_from(["evicted", "deleted", "gone", "restarted"]))
    def a_mount_pod_is_struck(self, data: st.DataObject, how: str) -> None:
        pod = data.draw(st.sampled_from(self.mount_pods()))
        self.do(self.refusable(self.strike(pod, how)))

    def mount_pods(self) -> list[Pod]:
        return sorted(self.world.mount_pods.store.values(), key=lambda pod: pod.metadata.labels[names.MOUNT_POD_LABEL])

    async def strike(self, pod: Pod, how: str) -> None:
        mounters, meta = self.world.mounters, pod.metadata
        match how:
            case "evicted":
                await mounters.fail(pod)
            case "deleted":
                await self.world.admin.delete(PODS, meta.name, namespace=meta.namespace)
            case "gone":
                await mounters.end(pod)
            case "restarted":
                for path in self.world.table.below(mounters.root(pod)):
                    self.world.table.unmount(path)

    @rule(asleep=st.booleans())
    def new_mount_pods_do_not_start(self, asleep: bool) -> None:
        self.world.mounters.asleep = asleep
        self.world.mounters.poke()

    @rule()
    def the_node_reboots(self) -> None:
        """Processes and mounts are gone. Kubelet publishes the volumes of the pods that are to run, and starts them."""

        async def reboot() -> None:
            await self.stop()
            table = self.world.table
            for path in list(table.mounts):
                table.unmount(path)
            table.published.clear()
            for pod in await self.world.admin.list(PODS, namespace=self.world.namespace):
                if not pod.finished:
                    self.world.publish(pod)

        self.do(reboot())

    async def refusable(self, act: Awaitable[object]) -> None:
        """An act that the API may refuse: of what is not there, or is there already."""
        with suppress(NotFound, AlreadyExists, Invalid, Forbidden):
            await act

    # --- The end of all misfortunes

    async def come_to_rest(self) -> None:
        self.world.mounters.asleep = False
        self.world.mounters.poke()
        await self.refusable(self.world.add_secret())
        if self.running is None or self.running.wire.cut.is_set():
            await self.stop()
            await self.start()
        assert self.running is not None
        self.running.wire.cut_at = 0
        self.running.wire.flowing.set()
        with suppress(AssertionError):
            await self.world.until(lambda: not self.wrong(), within=PATIENCE)
        assert self.wrong() == ""
        await asyncio.sleep(REST)
        assert self.wrong() == "", "it does not stay right"

    def wrong(self) -> str:
        return Right(self.registered, self.world).wrong()


TestWorldModel = WorldMachine.TestCase
TestWorldModel.settings = examples(30, stateful_step_count=30)
