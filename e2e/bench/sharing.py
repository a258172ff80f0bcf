"""What one bucket in many pods costs in memory, under the policy `shared` beside `independent`; and what one client takes.

Counted is, once every pod has read a file, what the processes of all mount pods have (PSS, in which a page that several map counts
once), and what their control groups are charged with less the page cache, which the kernel takes back when it is short.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from e2e import manifests
from e2e.grounds import onnode
from e2e.grounds.installation import SYSTEM
from e2e.kubectl import Kubectl

from . import byhand
from .claims import NAMESPACE, OBJECT, ROOM, Bed
from .figure import Figure, Series
from .sight import Sight, process_of

LARGE = 64 << 20
"""Bytes of an object that takes a while."""
MEMORY = Path("/sys/fs/cgroup/memory")
"""Of version 1. There is no such directory where the hierarchy is of version 2."""


def measure(bed: Bed, *, pods: int) -> list[Figure]:
    """One figure for each way to count."""
    found = {policy: _cost(bed, policy, pods=pods) for policy in ("shared", "independent")}
    what = f"{pods} pods on one bucket, {bed.mounter}"
    series = [[Series(policy, (cost[way],)) for policy, cost in found.items()] for way in (0, 1)]
    (pss, pss_independent), (charged, charged_independent) = series
    return [
        Figure(f"{what}, PSS", "MiB", pss, pss_independent),
        Figure(f"{what}, control groups less page cache", "MiB", charged, charged_independent),
    ]


def client(bed: Bed) -> list[Figure]:
    """One client by hand: what is resident when a small object was read, and the most that was while a large one came and went."""
    with byhand.started(bed.parameters, bed.ground.store, memory=ROOM, wanted=OBJECT) as found:
        idle = _status(found.process.pid, "VmRSS")
        large = Path(found.mountpoint, "large")
        large.write_bytes(os.urandom(LARGE))
        with large.open("rb") as file:
            while file.read(1 << 20):
                pass
        most = _status(found.process.pid, "VmHWM")
        large.unlink()
    busy, resting = (Series(name, (value / 2**20,)) for name, value in (("busy", most), ("idle", idle)))
    return [Figure(f"one client, {bed.mounter}, resident", "MiB", busy, resting)]


def _status(process: int, field: str) -> int:
    """Bytes."""
    lines = dict(line.split(":", 1) for line in _text(f"/proc/{process}/status").splitlines())
    return int(lines[field].split()[0]) * 1024


def _cost(bed: Bed, policy: str, *, pods: int) -> tuple[float, float]:
    kubectl = bed.ground.kubectl.within(NAMESPACE)
    annotations = manifests.opted_in(bed.mounter, mount_pod_dispatch_policy=policy)
    kubectl.apply(manifests.deployment("crowd", annotations=annotations, replicas=pods))
    kubectl("rollout", "status", "deployment/crowd", "--timeout=300s", timeout=310)
    bed.claim(policy, selector={"matchLabels": {"app": "crowd"}})
    try:
        _read_in_all(bed, kubectl, policy)
        processes = _processes(bed.ground.kubectl.within(SYSTEM))
        return _pss(processes) / 2**20, _charged(processes) / 2**20
    finally:
        bed.unclaim(policy)
        bed.until_gone(policy)
        kubectl.delete("deployment", "crowd", timeout=90)
        kubectl("wait", "--for=delete", "pod", "--selector=app=crowd", "--timeout=120s", timeout=130)


def _read_in_all(bed: Bed, kubectl: Kubectl, name: str) -> None:
    for pod in kubectl.list("pods", "--selector=app=crowd"):
        Sight(process_of(pod["metadata"]["uid"])).readable(f"{bed.mountpoint(name)}/{OBJECT}")
    kubectl.wait(f"dvc/{name}", condition="condition=Ready", timeout=120)
    # Those that only came up let go of what they needed for that.
    time.sleep(2)


def _processes(kubectl: Kubectl) -> list[int]:
    """All of all mount pods."""
    label = f"{manifests.GROUP}/mount-pod"
    uids = [pod["metadata"]["uid"] for pod in kubectl.list("pods", f"--selector={label}")]
    spellings = {spelling for uid in uids for spelling in (uid, uid.replace("-", "_"))}
    return [pid for pid in onnode.everything() if any(uid in _text(f"/proc/{pid}/cgroup") for uid in spellings)]


def _pss(processes: Iterable[int]) -> int:
    lines = (line for pid in processes for line in _text(f"/proc/{pid}/smaps_rollup").splitlines() if line.startswith("Pss:"))
    return sum(int(line.split()[1]) * 1024 for line in lines)


def _charged(processes: Iterable[int]) -> int:
    """In the groups in which they are, each counted once."""
    return sum(map(_charged_to, {_group(pid) for pid in processes} - {None}))


def _group(pid: int) -> Path | None:
    for line in _text(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return MEMORY / path.lstrip("/")
        if not controllers and not MEMORY.exists():
            return MEMORY.parent / path.lstrip("/")
    return None


def _charged_to(group: Path | None) -> int:
    if group is None:
        return 0
    unified = (group / "memory.current").exists()
    usage = int(_text(group / ("memory.current" if unified else "memory.usage_in_bytes")) or 0)
    statistics = dict(line.split() for line in _text(group / "memory.stat").splitlines())
    return usage - int(statistics["file" if unified else "total_cache"])


def _text(path: str | Path) -> str:
    """Empty where a process has ended."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
