"""The world that chaos happens to: a local cluster of two nodes with dynvol on it, an S3 server behind a bad network, and programs
that write. It knows how things are called and where they are; what is done to them is `faults`', whether all is well `judge`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from e2e.chaos import objects
from e2e.chaos.buckets import Buckets
from e2e.chaos.ledger import Ledger
from e2e.chaos.objects import NAMESPACE
from e2e.chaos.proxy import Proxy
from e2e.cluster.api import ApiClient, ApiError, Object, path
from e2e.cluster.lifecycle import APISERVER, LocalCluster
from e2e.cluster.processes import Process, start_time
from e2e.cluster.s3 import S3Server
from e2e.grounds import onnode
from e2e.grounds.revision import PROJECT
from e2e.manifests import GROUP, Manifest

T = TypeVar("T")

SYSTEM = "dynvol-system"
KEYS = {"chaos-first-key": "first-secret-key-which-is-long", "chaos-other-key": "other-secret-key-which-is-long"}
"""Secret keys by access key: two, so that the Secret can change while both are good."""
DISK = 96
"""MiB of a node's /var/lib/dynamic."""
INSISTENCE = 300.0
"""Seconds for which the API server is asked again before chaos itself gives up."""
STEADY_PODS = {"steady-1": "node-1", "steady-2": "node-2"}
BUCKETS = (*(f"{objects.STEADY}-{client}" for client in objects.CLIENTS), *objects.GUEST_CLAIMS)
SHARED = "steady-2"
"""The one whose mount pods are the node's."""

_RESOURCES = {
    "Namespace": ("v1", "namespaces"),
    "Secret": ("v1", "secrets"),
    "Pod": ("v1", "pods"),
    "StorageProviderClass": (f"{GROUP}/v1alpha1", "storageproviderclasses"),
    "DynamicVolumeClaim": (f"{GROUP}/v1alpha1", "dynamicvolumeclaims"),
}
_PLAIN_NO = frozenset({400, 403, 404, 422})


@dataclass(slots=True)
class World:
    cluster: LocalCluster
    store: S3Server
    proxy: Proxy
    api: ApiClient
    ledger: Ledger
    buckets: Buckets
    access: str = next(iter(KEYS))
    """The access key that the Secret is to hold."""
    restarts: Counter[str] = field(default_factory=Counter)
    """Of the writers' containers, by pod: those that chaos itself is to blame for."""

    # The API

    async def insist(self, act: Callable[[], Awaitable[T]]) -> T:
        """Until the API server does it: that it is ill at the moment is no reason for chaos to stop. Raises ApiError where it says
        plainly no, TimeoutError in the end."""
        async with asyncio.timeout(INSISTENCE):
            while True:
                try:
                    return await act()
                except ApiError as error:
                    if error.code in _PLAIN_NO:
                        raise
                except (aiohttp.ClientError, OSError, TimeoutError):
                    pass
                await asyncio.sleep(0.3)

    async def apply(self, manifest: Manifest) -> None:
        url = url_of(manifest["kind"], manifest["metadata"]["name"], namespace=manifest["metadata"].get("namespace", ""))
        await self.insist(lambda: self.api.patch(url, manifest, kind="apply", fieldManager="chaos", force="true"))

    async def patch(self, kind: str, name: str, body: Object) -> None:
        with contextlib.suppress(ApiError):
            await self.insist(lambda: self.api.patch(url_of(kind, name, namespace=NAMESPACE), body))

    async def delete(self, kind: str, name: str, *, namespace: str = NAMESPACE, grace: int | None = None) -> None:
        """Asks for it, and does not wait for the end. What is not there is as good as deleted."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", **({} if grace is None else {"gracePeriodSeconds": grace})}
        try:
            await self.insist(lambda: self.api.delete(url_of(kind, name, namespace=namespace), options))
        except ApiError as error:
            if error.code != 404:
                raise

    async def all_of(self, kind: str, *, namespace: str = NAMESPACE, **query: str) -> list[Object]:
        return await self.insist(lambda: self.api.list(url_of(kind, namespace=namespace), **query))

    async def mount_pods(self) -> list[Object]:
        return await self.all_of("Pod", namespace=SYSTEM, labelSelector=f"{GROUP}/mount-pod")

    async def leader(self) -> str:
        """The node whose process leads; empty if none does."""
        url = path("coordination.k8s.io/v1", "leases", namespace=SYSTEM, name="dynvol-leader")
        lease = await self.insist(lambda: self.api.get(url))
        return lease["spec"].get("holderIdentity") or ""

    async def debug(self, action: str, faults: list[dict[str, Any]] | None = None) -> None:
        """The API server's own levers (`e2e.cluster.apiserver.faults`)."""
        body: Any = faults if faults is not None else []
        await self.insist(lambda: self.api.create(f"/debug/{action}", body))

    # Nodes and what runs there

    def processes(self, program: str, *, node: str = "") -> list[Process]:
        """Those whose command line contains `program`, in the order in which they were started."""
        found = [process for pid in self._pids(node) if program in onnode.command(pid) and (process := _process(pid))]
        return sorted(found, key=lambda process: (process.start, process.pid))

    def clients(self) -> list[Process]:
        """The FUSE clients."""
        return [process for name in objects.CLIENTS for process in self.processes(f"{name} ") if _program(process) == name]

    def _pids(self, node: str) -> Iterable[int]:
        for name in [node] if node else self.cluster.nodes:
            if (machine := self.cluster.machine(name)) and machine.alive:
                yield from onnode.below(machine.pid)

    def node_of(self, process: Process) -> str:
        """Empty for one that has ended."""
        return next((node for node in self.cluster.nodes if process.pid in self._pids(node)), "")

    def machines(self) -> dict[str, int]:
        return {name: host.pid for name in self.cluster.nodes if (host := self.cluster.machine(name)) and host.alive}

    # What there should be

    async def furnish(self) -> None:
        """All that is steady, and the Secret: made, or made good again."""
        for manifest in (*objects.surroundings(), self.secret()):
            await self.apply(manifest)
        for manifest in objects.steady_claims(self.proxy.endpoint):
            await self.apply(manifest)

    def secret(self) -> Manifest:
        return objects.secret(self.access, KEYS[self.access])

    async def start_steady_pods(self) -> None:
        for name, node in STEADY_PODS.items():
            await self.apply(self.pod(name, node=node, shared=name == SHARED, labels=objects.WELCOME))

    async def clear(self) -> None:
        """All claims and pods go."""
        for kind in ("DynamicVolumeClaim", "Pod"):
            for found in await self.all_of(kind):
                await self.delete(kind, found["metadata"]["name"])

    def pod(self, name: str, *, node: str, shared: bool = False, labels: Mapping[str, str]) -> Manifest:
        return objects.pod(name, node=node, ledger=self.cluster.state / "ledger", shared=shared, labels=labels)

    # The API server's past

    def remember(self) -> Path:
        """A copy of all that the API server knows now."""
        kept = self.cluster.state / "apiserver.kept"
        kept.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(self._database)) as now, contextlib.closing(sqlite3.connect(kept)) as copy:
            now.backup(copy)
        return kept

    async def go_back(self, kept: Path) -> None:
        """The API server forgets what it has learned since. Versions go on from a higher one, as `etcdutl snapshot restore
        --bump-revision --mark-compacted` has it."""
        await self.cluster.kill(APISERVER)
        with contextlib.closing(sqlite3.connect(self._database)) as now, contextlib.closing(sqlite3.connect(kept)) as copy:
            (version,) = now.execute("SELECT version FROM revision").fetchone()
            copy.backup(now)
            now.execute("UPDATE revision SET version = ?", (version + 10_000,))
            now.commit()
        await self.cluster.start(APISERVER)

    @property
    def _database(self) -> Path:
        return self.cluster.state / "apiserver.db"


@asynccontextmanager
async def world(state: Path) -> AsyncIterator[World]:
    """Up, with dynvol installed, and nothing of it left afterwards."""
    cluster = LocalCluster(state, nodes=2, crash_backoff=0.5, crash_backoff_cap=2.0, refresh=1.0, heartbeat=2.0, disk=DISK)
    access, key = next(iter(KEYS.items()))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cluster)
        store = S3Server(state / "s3", access_key=access, secret_key=key, more_keys=KEYS)
        await stack.enter_async_context(store)
        proxy = await stack.enter_async_context(Proxy(store.port))
        api = await stack.enter_async_context(cluster.api())
        (state / "ledger").mkdir()
        await cluster.kubectl("apply", "-k", str(PROJECT / "config" / "default"))
        for what in ("daemonset/dynvol-node", "deployment/dynvol-webhook"):
            await cluster.kubectl(f"--namespace={SYSTEM}", "rollout", "status", what, "--timeout=120s", limit=130)
        buckets = Buckets(store.endpoint, access, key, BUCKETS)
        await asyncio.to_thread(buckets.make)
        yield World(cluster, store, proxy, api, Ledger(state / "ledger"), buckets)


def url_of(kind: str, name: str = "", *, namespace: str = "") -> str:
    version, resource = _RESOURCES[kind]
    return path(version, resource, namespace=namespace if kind in ("Secret", "Pod", "DynamicVolumeClaim") else "", name=name)


def _process(pid: int) -> Process | None:
    try:
        return Process(pid, start_time(pid))
    except OSError:
        return None


def _program(process: Process) -> str:
    return onnode.command(process.pid).partition(" ")[0].rpartition("/")[2]
