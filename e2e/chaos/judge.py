"""What is true at the end, found out without dynvol: from the API's objects, the kernel's tables and the S3 server's own answers.

`problems` is asked again and again until there are none, or time is up; what is left then is wrong. It looks at

    claims    what each says of itself, against the pods that match it
    mounts    what each container's own mount table holds below its volumes' roots, and what the node's does
    data      every file that was closed without an error is in a bucket, byte for byte
    things    mount pods, Secret copies, directories, processes, FUSE connections: as many as are wanted, and no more
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.chaos.expected import Pair, expected_in
from e2e.chaos.objects import CLIENTS, NAMESPACE
from e2e.chaos.report import Findings
from e2e.chaos.world import SYSTEM, World
from e2e.cluster import children, mounts
from e2e.cluster.api import Object
from e2e.cluster.mounts import Mount
from e2e.grounds import onnode
from e2e.manifests import GROUP

UPLOAD = 15.0
"""Seconds that a client may take to upload what was closed, while all is well."""
CONNECTIONS = Path("/sys/fs/fuse/connections")


@dataclass(slots=True)
class Judge:
    world: World
    _connections: dict[int, float] = field(default_factory=dict)
    """Minor numbers of FUSE mounts of ours → when they were last seen in a mount table, in seconds since the epoch."""

    async def problems(self, *, since: float) -> Findings:
        """All that is not right now. Every pair must have been written to since `since`, in seconds since boot."""
        found = Findings()
        claims, pods = (
            await self.world.all_of("DynamicVolumeClaim"),
            await self.world.all_of("Pod", labelSelector=f"app={NAMESPACE}"),
        )
        mount_pods = await self.world.mount_pods()
        copies = await self.world.all_of("Secret", namespace=SYSTEM, labelSelector=f"{GROUP}/mount-pod")
        pairs = [pair for claim in claims for pair in expected_in(claim, pods)]
        self.world.ledger.catch_up()
        found.add("claims that do not tell the truth", [why for claim in claims for why in _untruths(claim, pairs)])
        found.add("mounts that are not the wanted ones", [*await self._wrong_views(pods, pairs), *self._wrong_on_nodes(pairs)])
        found.add("mounts that take no writes", self._silent(pairs, since))
        found.add("user containers restarted by dynvol", self._restarts(pods))
        # While programs write there is always something on its way; when they are gone, there must not be.
        before = time.monotonic() - UPLOAD if pods else math.inf
        found.add("writes lost", self.world.ledger.lost(await asyncio.to_thread(self.world.buckets.digests), before=before))
        found.add("reads of wrong bytes", self.world.ledger.wrong)
        workloads = {pair.workload for pair in pairs}
        found.add("leaked mount pods", _surplus("mount pod", mount_pods, len(workloads)))
        found.add("leaked Secret copies", _surplus("Secret copy", copies, len(workloads)))
        found.add("leaked directories", self._directories(pods))
        found.add("leaked processes", self._processes(workloads, pairs))
        found.add("leaked FUSE connections", self._stale_connections())
        return found

    # --- Mounts

    async def _wrong_views(self, pods: Sequence[Object], pairs: Sequence[Pair]) -> list[str]:
        found = []
        shared: set[tuple[str, str, str]] = set()
        for pod in pods:
            name = pod["metadata"]["name"]
            wanted = {pair.path: pair for pair in pairs if pair.pod == name}
            process = next(iter(self.world.processes(f"/ledger/{name} {name} ")), None)
            if process is None:
                found.append(f"pod {name} has no container that runs")
                continue
            table = [m for m in _fuse(process.pid) if _is_below_roots(m)]
            found += _differences(name, table, wanted)
            shared |= {(p.node, p.claim_uid, m.source) for m in table if (p := wanted.get(str(m.mount_point))) and p.is_shared}
            right = [pair for m in table if (pair := wanted.get(str(m.mount_point)))]
            found += [why for pair in right if (why := await _wrong_mode(process.pid, pair))]
        return [*found, *_mixed_up(shared)]

    def _wrong_on_nodes(self, pairs: Sequence[Pair]) -> Iterable[str]:
        """On the node each mount shows twice: in the workload's directory, and in kubelet's view of it."""
        for node, machine in self.world.machines().items():
            there = _fuse(machine)
            for m in there:
                self._connections[int(m.device.partition(":")[2])] = time.time()
            shown = Counter(_place_on_node(m) for m in there)
            wanted = {(p.pod_uid, Path(p.path).name): 2 for p in pairs if p.node == node}
            for place in shown.keys() | wanted.keys():
                if shown[place] != wanted.get(place, 0):
                    yield f"{node} shows {place[1]} of pod {place[0]} {shown[place]} times, not {wanted.get(place, 0)}"

    def _stale_connections(self) -> Iterable[str]:
        """Connections that were ours and are in no mount table any more, but still in the kernel. A number that was given away
        again is known by its directory's age."""
        present = {int(m.device.partition(":")[2]) for pid in self._namespaces() for m in _fuse(pid)}
        for minor, seen in self._connections.items():
            if minor not in present:
                with contextlib.suppress(OSError):
                    if os.stat(CONNECTIONS / str(minor)).st_ctime <= seen:
                        yield f"FUSE connection {minor}"

    def _namespaces(self) -> Iterable[int]:
        """A process of each mount namespace on our nodes."""
        seen = {}
        for machine in self.world.machines().values():
            for pid in onnode.below(machine):
                with contextlib.suppress(OSError):
                    seen[os.readlink(f"/proc/{pid}/ns/mnt")] = pid
        return seen.values()

    # --- Programs and their data

    def _silent(self, pairs: Sequence[Pair], since: float) -> Iterable[str]:
        served = self.world.ledger.served
        late = [pair for pair in pairs if (last := served.get((pair.pod, pair.path))) is None or last.done <= since]
        return [f"{pair.claim} in {pair.pod}" for pair in late]

    def _restarts(self, pods: Sequence[Object]) -> Iterable[str]:
        for pod in pods:
            name = pod["metadata"]["name"]
            count = sum(s["restartCount"] for s in (pod.get("status") or {}).get("containerStatuses") or ())
            if count > self.world.restarts[name]:
                yield f"{name}: {count} restarts, of which chaos is to blame for {self.world.restarts[name]}"

    # --- Things

    def _directories(self, pods: Sequence[Object]) -> Iterable[str]:
        """Each pod has one in the root of each of its classes; an independent pod has the root for itself."""
        wanted = {pod["metadata"]["uid"] for pod in pods}
        for node, machine in self.world.machines().items():
            for found in onnode.state_files(f"/proc/{machine}/root"):
                parts = Path(found.partition(onnode.STATE_DIR)[2]).parts
                if len(parts) == 5 and parts[4] not in wanted:
                    yield f"{node}: {found}"

    def _processes(self, workloads: set[tuple[str, ...]], pairs: Sequence[Pair]) -> Iterable[str]:
        clients = {(pair.workload, pair.claim_uid) for pair in pairs}
        for what, found, wanted in (
            ("mounter", self.world.processes("dynvol mounter"), len(workloads)),
            ("FUSE client", self.world.clients(), len(clients)),
        ):
            if len(found) != wanted:
                yield f"{len(found)} processes of the kind {what}, not {wanted}: {[process.pid for process in found]}"
        for machine in self.world.machines().values():
            yield from (f"process {pid} is {state}" for pid in onnode.below(machine) if (state := _odd_state(pid)))


def _untruths(claim: Object, pairs: Sequence[Pair]) -> Iterable[str]:
    """A claim at rest says that it is Ready, and names exactly the pods that it is in, as mounted."""
    name, status = claim["metadata"]["name"], claim.get("status") or {}
    if "deletionTimestamp" in claim["metadata"]:
        yield f"{name} is still there, though it was deleted"
        return
    wanted = {pair.pod_uid: pair for pair in pairs if pair.claim == name}
    said = {entry["uid"]: entry for entry in status.get("pods") or ()}
    for uid in wanted.keys() - said.keys():
        yield f"{name} does not speak of pod {wanted[uid].pod}"
    for uid in said.keys() - wanted.keys():
        yield f"{name} still speaks of pod {said[uid]['pod']}"
    for uid in said.keys() & wanted.keys():
        if said[uid]["phase"] != "Mounted":
            yield f"{name} says {said[uid]['phase']} of pod {wanted[uid].pod}: {said[uid].get('message', '')}"
        elif said[uid]["path"] != wanted[uid].path:
            yield f"{name} says {said[uid]['path']} in pod {wanted[uid].pod}, not {wanted[uid].path}"
    if status.get("observedGeneration") != claim["metadata"]["generation"]:
        yield f"{name} speaks of generation {status.get('observedGeneration')}, not {claim['metadata']['generation']}"
    counts = {key: status.get(key, 0) for key in ("desired", "mounted", "failed")}
    if counts != {"desired": len(wanted), "mounted": len(wanted), "failed": 0}:
        yield f"{name} counts {counts}, but {len(wanted)} pods match"
    ready = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {"status": "", "message": "no condition"})
    if (ready["status"] == "True") != bool(wanted):
        yield f"{name} says Ready={ready['status']}: {ready.get('message', '')}"


def _differences(pod: str, table: Sequence[Mount], wanted: dict[str, Pair]) -> Iterable[str]:
    shown = Counter(str(m.mount_point) for m in table)
    yield from (f"{pod} has {path}, which no claim wants" for path in shown.keys() - wanted.keys())
    yield from (f"{pod} has no {path}" for path in wanted.keys() - shown.keys())
    yield from (f"{pod} has {count} mounts on {path}" for path, count in shown.items() if count > 1)
    for m in table:
        pair = wanted.get(str(m.mount_point))
        if pair and not pair.is_shared and _claim_of(m) != pair.claim_uid:
            yield f"{pod} has {m.source} on {m.mount_point}, not claim {pair.claim_uid}"


async def _wrong_mode(pid: int, pair: Pair) -> str:
    """The present generation of the claim is what is mounted: its `umask` shows in the mode of the mount's root. Asked by a process
    of its own, for it may hang."""
    wanted = f"{0o777 & ~int(pair.umask, 8):o}"
    try:
        asked = await children.run(["stat", "--format=%a", f"/proc/{pid}/root{pair.path}"], limit=5)
    except TimeoutError:
        return f"{pair.path} in {pair.pod} does not answer"
    said = asked.output.strip() or asked.errors.strip()
    return "" if said == wanted else f"{pair.path} in {pair.pod} has mode {said}, but umask is {pair.umask}"


def _is_below_roots(mount: Mount) -> bool:
    return any(mount.mount_point.is_relative_to(f"/{client}") for client in CLIENTS)


def _mixed_up(shared: Set[tuple[str, str, str]]) -> Iterable[str]:
    """Of (node, claim, source) where pods share a mount pod. A source there names what is mounted, and each claim is for a bucket
    of its own: so on a node a claim has one source, and a source one claim."""
    sources = Counter((node, claim) for node, claim, _ in shared)
    claims = Counter((node, source) for node, _, source in shared)
    yield from (f"claim {claim} is {count} things on {node}" for (node, claim), count in sources.items() if count > 1)
    yield from (f"{source} on {node} is for {count} claims" for (node, source), count in claims.items() if count > 1)


def _place_on_node(mount: Mount) -> tuple[str, str]:
    """The uid of the pod, and the name of the mountpoint: in a mount pod's root, or in kubelet's view of it."""
    *_, above, name = mount.mount_point.parts
    parts = mount.mount_point.parts
    return (parts[parts.index("pods") + 1] if "pods" in parts else above), name


def _claim_of(mount: Mount) -> str:
    return mount.source.removeprefix("dynvol-").rpartition("-")[0]


def _fuse(pid: int) -> Sequence[Mount]:
    try:
        return [m for m in mounts.table(str(pid)) if m.filesystem.startswith("fuse")]
    except OSError:
        return ()


def _surplus(what: str, found: Sequence[Object], wanted: int) -> Iterable[str]:
    if len(found) != wanted:
        yield f"{len(found)} of the kind {what}, not {wanted}: {[each['metadata']['name'] for each in found]}"


def _odd_state(pid: int) -> str:
    """Stopped, or ended and not waited for."""
    states: dict[str, Any] = {"T": "stopped", "Z": "a zombie"}
    with contextlib.suppress(OSError):
        return str(states.get(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0], ""))
    return ""
