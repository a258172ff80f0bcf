"""From a container as Kubernetes describes it to a container as runc wants it: an OCI runtime configuration.

Pure: no file is read but the tables at the top, nothing is mounted or started. What the fields mean follows containerd's
CRI plugin, since that is what real nodes run.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# In the kernel's order (linux/capability.h): the index is the bit.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip

# What containerd grants where nothing is said.
DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip

MASKED_PATHS = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"]
READ_ONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

CPU_PERIOD = 100_000  # microseconds, the kernel's and kubelet's default
MIN_CPU_SHARES = 2


class Propagation(StrEnum):
    """How mounts travel between the host and a container's mount: the API's words, and runc's beside them."""

    NONE = "None"
    HOST_TO_CONTAINER = "HostToContainer"
    BIDIRECTIONAL = "Bidirectional"

    @property
    def option(self) -> str:
        match self:
            case Propagation.NONE:
                return "rprivate"
            case Propagation.HOST_TO_CONTAINER:
                return "rslave"
            case Propagation.BIDIRECTIONAL:
                return "rshared"


@dataclass(frozen=True, slots=True)
class BindMount:
    """A path of the node at a path of the container."""

    source: Path
    target: str
    read_only: bool = False
    propagation: Propagation = Propagation.NONE

    def as_oci(self) -> Json:
        access = "ro" if self.read_only else "rw"
        return {
            "type": "bind",
            "source": str(self.source),
            "destination": self.target,
            "options": ["rbind", self.propagation.option, access],
        }


@dataclass(frozen=True, slots=True)
class User:
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Milli-CPUs and bytes; 0 is no limit."""

    cpu_request: int = 0
    cpu: int = 0
    memory: int = 0

    def as_oci(self) -> Json:
        resources: Json = {"cpu": {"shares": max(MIN_CPU_SHARES, self.cpu_request * 1024 // 1000)}}
        if self.cpu:
            # No less than 1 ms in 100 ms, as kubelet has it: the kernel refuses a shorter quota.
            resources["cpu"] |= {"quota": max(1000, self.cpu * CPU_PERIOD // 1000), "period": CPU_PERIOD}
        if self.memory:
            resources["memory"] = {"limit": self.memory}
        return resources


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All that a configuration is made of. `cgroup` is empty where cgroups cannot be written.

    `unified_cgroups` is version 2, where the unprivileged see their own group as the root, as containerd has it.
    """

    arguments: Sequence[str]
    environment: Sequence[str]
    working_directory: str
    hostname: str
    user: User
    mounts: Sequence[BindMount]
    cgroup: str
    limits: Limits = Limits()
    privileged: bool = False
    read_only_root: bool = False
    no_new_privileges: bool = False
    unified_cgroups: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    add_capabilities: Sequence[str] = ()
    drop_capabilities: Sequence[str] = ()


def config(spec: ContainerSpec, *, rootfs: str = "rootfs") -> Json:
    """The whole config.json."""
    return {
        "ociVersion": "1.0.2",
        "process": _process(spec),
        "root": {"path": rootfs, "readonly": spec.read_only_root},
        "hostname": spec.hostname,
        "mounts": [*_own_mounts(spec), *(mount.as_oci() for mount in in_order(spec.mounts))],
        "linux": _linux(spec),
    }


def in_order(mounts: Sequence[BindMount]) -> list[BindMount]:
    """Parents before what lies below them, as containerd sorts them: by the number of path components."""
    return sorted(mounts, key=lambda mount: len(Path(mount.target).parts))


def _process(spec: ContainerSpec) -> Json:
    names = [f"CAP_{name}" for name in capabilities(spec)]
    return {
        "terminal": False,
        "user": {"uid": spec.user.uid, "gid": spec.user.gid, "additionalGids": list(spec.user.groups)},
        "args": list(spec.arguments),
        "env": list(spec.environment),
        "cwd": spec.working_directory,
        "capabilities": {kind: names for kind in ("bounding", "effective", "permitted")},
        "noNewPrivileges": spec.no_new_privileges,
    }


def capabilities(spec: ContainerSpec) -> list[str]:
    """The default set, less what is dropped, plus what is added; `ALL` is what this machine can give."""
    available = grantable()
    if spec.privileged:
        return available
    dropped = set(CAPABILITIES if "ALL" in spec.drop_capabilities else spec.drop_capabilities)
    added = set(CAPABILITIES if "ALL" in spec.add_capabilities else spec.add_capabilities)
    wanted = (set(DEFAULT_CAPABILITIES) - dropped) | added
    return [name for name in available if name in wanted]


def grantable() -> list[str]:
    """The bounding set of this process: runc fails on a capability that it cannot pass on."""
    status = Path("/proc/self/status").read_text()
    bounding = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return [name for bit, name in enumerate(CAPABILITIES) if bounding >> bit & 1]


def _own_mounts(spec: ContainerSpec) -> list[Json]:
    system = ["nosuid", "noexec", "nodev"]
    access = "rw" if spec.privileged else "ro"
    devices = ["nosuid", "strictatime", "mode=755", "size=65536k"]
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    shared_memory = [*system, "mode=1777", "size=65536k"]
    return [
        _mount("/proc", "proc", "proc", system),
        _mount("/dev", "tmpfs", "tmpfs", devices),
        _mount("/dev/pts", "devpts", "devpts", terminals),
        _mount("/dev/mqueue", "mqueue", "mqueue", system),
        _mount("/dev/shm", "tmpfs", "shm", shared_memory),
        _mount("/sys", "sysfs", "sysfs", [*system, access]),
        *([_mount("/sys/fs/cgroup", "cgroup", "cgroup", [*system, "relatime", access])] if spec.cgroup else []),
    ]


def _mount(target: str, kind: str, source: str, options: list[str]) -> Json:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _linux(spec: ContainerSpec) -> Json:
    kinds = ["mount", "uts"]
    kinds += [] if spec.host_pid else ["pid"]
    kinds += [] if spec.host_ipc else ["ipc"]
    kinds += ["cgroup"] if spec.cgroup and spec.unified_cgroups and not spec.privileged else []
    # runc needs to be told of the host's mounts only where one must be heard of, or heard from.
    propagations = {mount.propagation for mount in spec.mounts}
    rootfs = "rshared" if Propagation.BIDIRECTIONAL in propagations else "rslave"
    linux: Json = {
        "namespaces": [{"type": kind} for kind in kinds],
        "rootfsPropagation": rootfs,
        "resources": {"devices": [{"allow": spec.privileged, "access": "rwm"}]},
    }
    if spec.cgroup:
        linux["cgroupsPath"] = spec.cgroup
        linux["resources"] |= spec.limits.as_oci()
    if spec.privileged:
        linux["devices"] = host_devices()
    else:
        linux |= {"maskedPaths": MASKED_PATHS, "readonlyPaths": READ_ONLY_PATHS}
    return linux


def host_devices() -> list[Json]:
    """Every device node below /dev, as a privileged container gets them; terminals and shared memory are its own."""
    found = []
    for folder, folders, names in os.walk("/dev"):
        folders[:] = [name for name in folders if name not in {"pts", "shm", "mqueue", "fd", ".lxc", "block", "char"}]
        for name in names:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            if path != "/dev/console" and (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
                found.append(_device(path, info))
    return found


def _device(path: str, info: os.stat_result) -> Json:
    return {
        "path": path,
        "type": "c" if stat.S_ISCHR(info.st_mode) else "b",
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }
