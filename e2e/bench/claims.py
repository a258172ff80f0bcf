"""How long a user waits: for a bucket to come, to go, and to come back; beside the FUSE client started by hand.

By hand means: the very command that the mounter would run, on this machine, for the same bucket, without anything around it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dynvol.api import names
from dynvol.api.identity import Workload
from dynvol.api.resources import CLAIMS, CLASSES, PODS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import NotFound
from dynvol.mount.providers.contract import Place
from dynvol.mounter.limits import Memory
from dynvol.mounter.tools import Timing
from e2e import manifests
from e2e.grounds.ground import Ground
from e2e.grounds.installation import SYSTEM

from . import byhand
from .figure import Figure, Series, at_most
from .sight import Sight, process_of

T = TypeVar("T")


class Call(Protocol):
    def __call__(self, request: Coroutine[Any, Any, T], /) -> T: ...


NAMESPACE = "bench"
NOTHING: Mapping[str, Any] = {}
OBJECT = "readme"
STABLE = Timing().stable + 0.5
"""Seconds between kills: a client that dies again sooner is started again with growing pauses."""
PREPARED = 2.0
"""Seconds that a mount pod has been ready for when its first claim comes."""
ROOM = 128 << 20
"""Bytes of memory that the class grants."""


@dataclass(frozen=True, slots=True)
class Bed:
    """One workload pod that runs, and what it takes to give it claims and to see what comes of them."""

    ground: Ground
    client: KubeClient
    api: Call
    """Waits for a request."""
    pod: Any
    sight: Sight
    mounter: str

    @property
    def parameters(self) -> dict[str, str]:
        return {"bucket": NAMESPACE, "endpoint": self.ground.store.endpoint, "pathStyle": "true", "mounter": self.mounter}

    @property
    def workload(self) -> Workload:
        meta, node = self.pod["metadata"], self.pod["spec"]["nodeName"]
        return Workload.of(node=node, namespace=NAMESPACE, provider_class=self.mounter, policy="independent", pod_uid=meta["uid"])

    def mountpoint(self, name: str) -> str:
        return f"{manifests.ROOT}/{name}"

    def inside(self, name: str) -> str:
        return f"{self.mountpoint(name)}/{OBJECT}"

    def claim(self, name: str, *, selector: Mapping[str, Any] = NOTHING) -> float:
        """The moment at which the API had answered."""
        body = manifests.claim(
            name, bucket=NAMESPACE, endpoint=self.ground.store.endpoint, mountpoint=f"/{name}", selector=selector
        )
        body["spec"]["storageProviderClass"] = self.mounter
        self.api(self.client.create(CLAIMS, body, namespace=NAMESPACE))
        return time.perf_counter()

    def unclaim(self, name: str) -> float:
        self.api(self.client.delete(CLAIMS, name, namespace=NAMESPACE))
        return time.perf_counter()

    def until_gone(self, name: str) -> None:
        """The claim itself: all of dynvol is done with it then."""
        until(lambda: self._misses(CLAIMS, name, NAMESPACE))

    def until_released(self) -> None:
        """There is no mount pod for the workload, nor anything of one."""
        until(lambda: self._misses(PODS, self.workload.mount_pod, SYSTEM))

    def _misses(self, resource: Any, name: str, namespace: str) -> bool:
        try:
            self.api(self.client.get(resource, name, namespace=namespace))
        except NotFound:
            return True
        return False


def until(done: Callable[[], Any], *, within: float = 120.0) -> None:
    deadline = time.monotonic() + within
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within:.0f} s")
        time.sleep(0.05)


@contextmanager
def bed(ground: Ground, client: KubeClient, api: Call, *, mounter: str) -> Iterator[Bed]:
    """A namespace with a bucket, a class for `mounter` and one pod. All of it is gone afterwards."""
    store, kubectl = ground.store, ground.kubectl.within(NAMESPACE)
    store.make(NAMESPACE, **{OBJECT: "hello\n"})
    ground.kubectl.apply(
        manifests.namespace(NAMESPACE),
        manifests.secret("s3", namespace=NAMESPACE, access=store.access, key=store.key),
        manifests.provider_class(mounter, secret="s3", secret_namespace=NAMESPACE, mounter=mounter, mount_memory_limit=str(ROOM)),
    )
    try:
        kubectl.apply(manifests.pod("bench", annotations=manifests.opted_in(mounter)))
        kubectl.wait("pod/bench", condition="condition=Ready")
        pod = kubectl.get("pod", "bench")
        yield Bed(ground, client, api, pod, Sight(process_of(pod["metadata"]["uid"])), mounter)
    finally:
        kubectl.delete("dvc", "--all", timeout=90)
        kubectl.delete("pod", "--all", timeout=90)
        ground.kubectl.delete("spc", mounter)
        ground.kubectl.delete("namespace", NAMESPACE, timeout=90)
        store.remove(NAMESPACE)


# --- with dynvol


def measure(bed: Bed, *, rounds: int, cold_rounds: int, stable: float) -> list[Figure]:
    """The mount pod of the warm figures serves another claim all the while. A client that is killed was `stable` for so long."""
    store = bed.ground.store
    starts = _series("client by hand", rounds, lambda: byhand.start(bed.parameters, store, memory=ROOM, wanted=OBJECT))
    ends = _series("fusermount3 -u by hand", rounds, lambda: byhand.end(bed.parameters, store, memory=ROOM, wanted=OBJECT))
    bed.claim("stays")
    bed.sight.readable(bed.inside("stays"))
    came, went = zip(*(_come_and_go(bed, f"warm-{number}") for number in range(rounds)), strict=True)
    coming, going = Series("warm", came), Series("gone", went)
    killed = _series("back", max(1, rounds // 5), lambda: _killed(bed, bed.mounter, "stays", stable))
    bed.unclaim("stays")
    bed.until_gone("stays")
    cold = _series("cold", cold_rounds, lambda: _cold(bed))
    first = _series("first", cold_rounds, lambda: _first_of_prepared(bed))
    pods = _series("a pod that is the client itself", cold_rounds, lambda: _client_alone(bed))
    lost = _series("back", cold_rounds, lambda: _mount_pod_lost(bed, stable))
    who = bed.mounter
    return [
        Figure(f"warm claim, {who}", "ms", coming, starts, "floor × 1.3 + 40 ms; p99 ≤ 3 × p50", _warm_enough),
        Figure(f"claim deleted, {who}", "ms", going, ends, "floor + 60 ms", at_most(lambda floor: floor + 60)),
        Figure(f"client killed, {who}", "ms", killed, starts, "floor + 200 ms", at_most(lambda floor: floor + 200)),
        Figure(f"cold claim, {who}", "ms", cold, pods, "1.2 ×", at_most(lambda anchor: 1.2 * anchor)),
        Figure(f"first claim, prepared mount pod, {who}", "ms", first, starts, "as warm: floor × 1.3 + 40 ms", _soon),
        Figure(f"mount pod killed, {who}", "ms", lost, cold, "1.3 ×", at_most(lambda anchor: 1.3 * anchor)),
    ]


def _series(name: str, rounds: int, sample: Callable[[], float]) -> Series:
    return Series(name, tuple(sample() for _ in range(rounds)))


def _soon(figure: Figure) -> bool:
    return at_most(lambda floor: floor * 1.3 + 40)(figure)


def _warm_enough(figure: Figure) -> bool:
    steady = figure.measured.percentile(0.99) <= 3 * figure.measured.median
    return steady and _soon(figure)


def _come_and_go(bed: Bed, name: str) -> tuple[float, float]:
    asked = bed.claim(name)
    came = bed.sight.readable(bed.inside(name))
    time.sleep(0.2)
    told = bed.unclaim(name)
    went = bed.sight.gone(bed.mountpoint(name))
    bed.until_gone(name)
    return (came - asked) * 1000, (went - told) * 1000


def _killed(bed: Bed, program: str, claim: str, stable: float) -> float:
    """Milliseconds from the end of a program in the mount pod until an object of the claim can be read again. How long the order to
    kill it is on its way to the node is no part of it."""
    time.sleep(stable)
    with ThreadPoolExecutor(max_workers=1) as killer:
        killing = killer.submit(bed.ground.kill, program, pod=bed.workload.mount_pod)
        took = bed.sight.outage(bed.inside(claim))
        if not killing.result():
            raise RuntimeError(f"there is no {program} to kill")
    return took * 1000


def _cold(bed: Bed) -> float:
    bed.until_released()
    asked = bed.claim("cold")
    came = bed.sight.readable(bed.inside("cold"))
    bed.unclaim("cold")
    bed.until_gone("cold")
    return (came - asked) * 1000


def _first_of_prepared(bed: Bed) -> float:
    """Of a class whose mount pods are there when the pods are: its own start, and what kubelet says of that, is over."""
    parameter = {"spec": {"parameters": {names.MOUNT_POD_PARAMETER: names.PREPARED}}}
    bed.until_released()
    bed.api(bed.client.merge_patch(CLASSES, bed.mounter, parameter))
    until(lambda: not bed._misses(PODS, bed.workload.mount_pod, SYSTEM))
    bed.ground.kubectl.within(SYSTEM).wait(f"pod/{bed.workload.mount_pod}", condition="condition=Ready")
    time.sleep(PREPARED)
    asked = bed.claim("first")
    came = bed.sight.readable(bed.inside("first"))
    bed.unclaim("first")
    bed.until_gone("first")
    parameter["spec"]["parameters"][names.MOUNT_POD_PARAMETER] = names.ON_DEMAND
    bed.api(bed.client.merge_patch(CLASSES, bed.mounter, parameter))
    return (came - asked) * 1000


def _mount_pod_lost(bed: Bed, stable: float) -> float:
    """All its processes are killed, in its first life: kubelet is in no hurry with those that follow."""
    bed.until_released()
    bed.claim("lost")
    bed.sight.readable(bed.inside("lost"))
    took = _killed(bed, "mounter", "lost", stable)
    bed.unclaim("lost")
    bed.until_gone("lost")
    return took


def _client_alone(bed: Bed) -> float:
    """From the API's answer until readable, of a mount pod whose command is the client: what no mount pod can be quicker than."""
    bed.until_released()
    bed.claim("model")
    bed.sight.readable(bed.inside("model"))
    model = bed.ground.kubectl.within(SYSTEM).get("pod", bed.workload.mount_pod)
    bed.unclaim("model")
    bed.until_gone("model")
    bed.until_released()
    manifest = _client_pod(bed, model)
    created = bed.api(bed.client.create(PODS, manifest, namespace=SYSTEM))
    asked = time.perf_counter()
    name = created.metadata.name
    try:
        came = bed.sight.readable(bed.inside("anchor"))
    finally:
        bed.api(bed.client.delete(PODS, name, namespace=SYSTEM, grace_seconds=1))
        until(lambda: bed._misses(PODS, name, SYSTEM))
    return (came - asked) * 1000


def _client_pod(bed: Bed, model: Any) -> Any:
    """The mount pod `model` with the client for its program. The key comes from a variable: this is a measurement."""
    mountpoint = f"/xvols/{bed.pod['metadata']['uid']}/anchor"
    place = Place(
        source="anchor", mountpoint=mountpoint, secrets="/tmp/secrets", cache="/tmp/cache", memory=Memory(ROOM).take("anchor", 0)
    )
    command = byhand.command(place, bed.parameters, bed.ground.store)
    files = {f"FILE{number}": (name, content.decode()) for number, (name, content) in enumerate(command.files.items())}
    writing = "; ".join(f'printf %s "${variable}" > {place.secrets}/{name}' for variable, (name, _) in files.items())
    script = f'umask 077; mkdir -p {place.secrets} {place.cache} {mountpoint}; {writing}; exec "$@"'
    environment = {**command.environment, **{variable: content for variable, (_, content) in files.items()}}
    container = {
        **model["spec"]["containers"][0],
        "command": ["sh", "-c", script, "client", *command.argv],
        "args": [],
        "volumeMounts": [mount for mount in model["spec"]["containers"][0]["volumeMounts"] if mount["name"] == "xvols"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
    }
    kept = {key: model["spec"][key] for key in ("affinity", "tolerations") if key in model["spec"]}
    kept["volumes"] = [volume for volume in model["spec"]["volumes"] if volume["name"] == "xvols"]
    name = f"bench-client-{time.monotonic_ns()}"
    spec = {**kept, "containers": [container], "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": SYSTEM}, "spec": spec}
