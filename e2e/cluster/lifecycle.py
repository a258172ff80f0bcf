"""The local cluster as a whole: up, down from any state, and parts that can be killed and started again.

Every part is a process of its own that outlives who started it, and is found again by what is written in the state
folder. An API server, the controllers, and for each node a `machine` in which its kubelet and pods live.

    <state>/pki, admin.kubeconfig, apiserver.db   the API server's
    <state>/run/<part>.json, <part>.log           process ids and output
    <state>/nodes/<name>/                         a node: kubelet root, containers, logs, addresses
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from e2e.cluster import cgroups, children, machine, mounts, real
from e2e.cluster.api import ApiClient, ApiError, path
from e2e.cluster.apiserver import pki
from e2e.cluster.processes import Process, spawn, start_time

log = logging.getLogger(__name__)

APISERVER, CONTROLLERS, GUARD, ETCD, DISKS = "apiserver", "controllers", "guard", "etcd", "disks"
_LARGEST = 8  # nodes of a cluster
START_LIMIT = 60.0  # seconds for a part to come up
PROJECT = Path(__file__).resolve().parents[2]
NO_IMAGES: Mapping[str, str] = {}


class ClusterError(Exception):
    """The cluster cannot do what was asked; the message says what is missing on this machine."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a state folder was made with. The first node's network is 127.`second`.`third`.0/24, the next ones' follow.

    `etcd_port` is 0 unless the API server is a real one. `images` are names of images and their entrypoints, beside `dynvol`.
    """

    port: int
    second: int
    third: int
    etcd_port: int
    etcd_peer_port: int
    nodes: tuple[str, ...]
    crash_backoff: float
    refresh: float
    heartbeat: float
    images: Mapping[str, str]
    crash_backoff_cap: float = 300.0
    disk: int = 0

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"


class LocalCluster:
    """`async with LocalCluster(folder) as cluster:` is a running cluster; afterwards nothing of it is left.

    `kubectl` and `api` speak to it as its administrator. `kill` and `start` are for chaos: parts are "apiserver",
    "controllers", a node's name for the whole node, and "kubelet/<node>" for its kubelet alone.

    With `disk`, in MiB, each node's /var/lib/dynamic is a file system of its own of that size, which can be full. It outlives the
    node's end, as a disk does, and goes with the cluster (`e2e.cluster.disks`).
    """

    def __init__(
        self,
        state: Path,
        *,
        nodes: int = 1,
        real_apiserver: bool = False,
        crash_backoff: float = 10.0,
        crash_backoff_cap: float = 300.0,
        refresh: float = 5.0,
        heartbeat: float = 5.0,
        images: Mapping[str, str] = NO_IMAGES,
        disk: int = 0,
    ) -> None:
        self.state = state.resolve()
        self._wanted_nodes = tuple(f"node-{number}" for number in range(1, nodes + 1))
        self._real = real_apiserver
        self._images = dict(images)
        self._timing = {"refresh": refresh, "heartbeat": heartbeat}
        self._timing |= {"crash_backoff": crash_backoff, "crash_backoff_cap": crash_backoff_cap}
        self._disk = disk

    async def __aenter__(self) -> Self:
        try:
            await self.up(guarded=True)
        except BaseException:
            await asyncio.shield(self.down())
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.shield(self.down())

    # What it is

    @property
    def kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.settings.nodes

    @property
    def has_real_apiserver(self) -> bool:
        return self.settings.etcd_port != 0

    @property
    def settings(self) -> Settings:
        found = json.loads((self.state / "cluster.json").read_text())
        return Settings(**{**found, "nodes": tuple(found["nodes"])})

    @property
    def cgroup(self) -> str:
        """Parent of all the cluster's cgroups; two clusters on one machine do not meet."""
        return "/local-cluster-" + hashlib.sha256(str(self.state).encode()).hexdigest()[:10]

    def node_directory(self, node: str) -> Path:
        return self.state / "nodes" / node

    def disk(self, node: str) -> Path:
        """The node's /var/lib/dynamic as it can be reached from outside, whether the node runs or not."""
        return Path(self._seen_from_disks, *(self.node_directory(node) / machine.DISK).parts[1:])

    @property
    def _seen_from_disks(self) -> str:
        holder = self.process(DISKS)
        return f"/proc/{holder.pid}/root" if holder and holder.alive else "/"

    def machine(self, node: str) -> Process | None:
        """The node's first process: `nsenter --target PID --mount --pid` looks into the node."""
        return Process.recorded(self.node_directory(node) / "machine.json")

    def process(self, part: str) -> Process | None:
        """A part's process, if it was ever started."""
        if part.startswith("kubelet/"):
            return self._kubelet(part.removeprefix("kubelet/"))
        if part in {APISERVER, CONTROLLERS, GUARD, ETCD, DISKS}:
            return Process.recorded(self.state / "run" / f"{part}.json")
        return self.machine(part)

    def parts(self) -> dict[str, Process | None]:
        names = [*([ETCD] if self.has_real_apiserver else []), APISERVER, CONTROLLERS]
        for node in self.nodes:
            names += [node, f"kubelet/{node}"]
        return {name: self.process(name) for name in names}

    @contextlib.asynccontextmanager
    async def api(self) -> AsyncIterator[ApiClient]:
        async with ApiClient(self.kubeconfig) as client:
            yield client

    async def kubectl(self, *arguments: str, limit: float = 120.0, check: bool = True) -> str:
        """Run the real kubectl; its output. With `check`, a failure raises ClusterError with what it said."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.state / 'kubectl-cache'}"]
        outcome = await children.run([*command, *arguments], limit=limit)
        if check and outcome.code != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {outcome.errors.strip()}")
        return outcome.output if check else outcome.output + outcome.errors

    # Up and down

    async def up(self, *, guarded: bool = False) -> None:
        """Start what does not run, and wait until all nodes are Ready. May be repeated, and survives a dirty folder.

        A guarded cluster goes down by itself when the calling process ends; any other stays until `down`.
        """
        check_machine()
        (self.state / "run").mkdir(parents=True, exist_ok=True)
        if not (self.state / "cluster.json").exists():
            self._choose_settings()
        if guarded and not self._runs(GUARD):
            self._spawn(GUARD, "e2e.cluster.guard", "--state", str(self.state), "--owner", str(os.getpid()))
        pki.ensure(self.state, server=self.settings.server)
        if self.settings.disk and not self._runs(DISKS):
            await self._insert_disks()
        if not self._runs(APISERVER):
            await self.start(APISERVER)
        async with asyncio.TaskGroup() as tasks:
            for part in (CONTROLLERS, *self.nodes):
                if not self._runs(part):
                    tasks.create_task(self.start(part), name=f"start {part}")
        await self.wait_ready()

    def _choose_settings(self) -> None:
        if self._real and real.programs() is None:
            raise ClusterError(real.MISSING)
        port, etcd_port, etcd_peer_port = free_ports(3)
        second, third = _free_network(self.state, nodes=len(self._wanted_nodes))
        settings = Settings(
            port=port,
            second=second,
            third=third,
            etcd_port=etcd_port if self._real else 0,
            etcd_peer_port=etcd_peer_port if self._real else 0,
            nodes=self._wanted_nodes,
            images=self._images,
            disk=self._disk,
            **self._timing,
        )
        (self.state / "cluster.json").write_text(json.dumps(asdict(settings), indent=1))

    def _runs(self, part: str) -> bool:
        process = self.process(part)
        return process is not None and process.alive

    async def wait_ready(self) -> None:
        """Until each node's kubelet has said Ready since the call."""
        waiting = list(self.nodes)
        try:
            async with asyncio.timeout(START_LIMIT), self.api() as api:
                while waiting:
                    if await _is_ready(api, waiting[0]):
                        del waiting[0]
                        continue
                    self._complain_if_dead(waiting[0])
                    await asyncio.sleep(0.05)
        except TimeoutError:
            said = "\n".join(self._last_words(f"kubelet/{node}") for node in waiting)
            raise ClusterError(f"not ready within {START_LIMIT:.0f} s: {', '.join(waiting)}\n{said}") from None

    def _complain_if_dead(self, part: str) -> None:
        if not self._runs(part):
            raise ClusterError(f"{part} ended while starting:\n{self._last_words(part)}")

    def _last_words(self, part: str) -> str:
        log = self.state / "run" / f"{part}.log"
        if part.startswith("kubelet/"):
            log = self.node_directory(part.removeprefix("kubelet/")) / "kubelet.log"
        try:
            return log.read_text()[-2000:]
        except OSError:
            return "(it left no log)"

    async def down(self, *, keep_state: bool = False) -> None:
        """End everything, whatever state it is in, and remove the folder. What cannot be removed is an error.

        1. Nodes first, hard: the kernel ends every process in them and removes every mount.
        2. Then what else is on record: S3 servers, the nodes' disks, the controllers, the API server.
        3. The cgroups, which outlive processes.
        4. The folder, unless something is still mounted in there.
        """
        if not self.state.exists():
            return
        for folder in sorted((self.state / "nodes").glob("*")):
            if process := self.machine(folder.name):
                await process.end(grace=0)
        for record in sorted((self.state / "run").glob("*.json"), reverse=True):
            process = Process.recorded(record)
            if process and process.pid != os.getpid():  # the guard does not end itself
                await process.end()
        await asyncio.to_thread(cgroups.remove, self.cgroup)
        if left := mounts.below(self.state):
            raise ClusterError(f"still mounted: {', '.join(map(str, left))}")
        if left := cgroups.left(self.cgroup):
            raise ClusterError(f"cgroups are not empty: {', '.join(map(str, left))}")
        if not keep_state:
            await asyncio.to_thread(shutil.rmtree, self.state)

    # Parts

    async def kill(self, part: str, *, hard: bool = True) -> None:
        """End a part and leave it ended: with -9, or politely. A killed node takes all its pods along."""
        if part.startswith("kubelet/"):
            (self.node_directory(part.removeprefix("kubelet/")) / machine.HOLD).touch()
        if process := self.process(part):
            await process.end(grace=0 if hard else 10)

    async def start(self, part: str) -> None:
        """Start a part that was killed, or for the first time."""
        if part == APISERVER:
            await self._start_apiserver()
        elif part == CONTROLLERS:
            await self._start_controllers()
        elif part.startswith("kubelet/"):
            await self._release_kubelet(part.removeprefix("kubelet/"))
        else:
            await self._start_node(part)

    async def restart(self, part: str, *, hard: bool = True) -> None:
        await self.kill(part, hard=hard)
        await self.start(part)

    async def _start_apiserver(self) -> None:
        if self.has_real_apiserver:
            self._start_real_apiserver()
        else:
            listen = f"127.0.0.1:{self.settings.port}"
            self._spawn(APISERVER, "e2e.cluster.apiserver", "--state", str(self.state), "--listen", listen)
        async with asyncio.timeout(START_LIMIT), self.api() as api:
            while not await _is_healthy(api):
                self._complain_if_dead(APISERVER)
                await asyncio.sleep(0.03)

    def _start_real_apiserver(self) -> None:
        """etcd is only started if it does not run: killing the API server leaves it alone."""
        settings, folder = self.settings, real.programs()
        if folder is None:
            raise ClusterError("the kube-apiserver that this cluster was made with is gone")
        if not self._runs(ETCD):
            ports = {"port": settings.etcd_port, "peer_port": settings.etcd_peer_port}
            self._spawn_command(ETCD, real.etcd(folder, self.state, **ports))
        files = pki.Files(self.state)
        network = {"port": settings.port, "etcd_port": settings.etcd_port, "second": settings.second}
        self._spawn_command(APISERVER, real.apiserver(folder, files, **network))

    async def _start_controllers(self) -> None:
        kubeconfig = pki.kubeconfig(self.state, user="system:kube-controller-manager", groups=["system:masters"])
        # Whose build of it the real API server is, nobody knows before it refuses pods.
        more = ["--service-ca"] if self.has_real_apiserver else []
        self._spawn(CONTROLLERS, "e2e.cluster.controllers", "--kubeconfig", str(kubeconfig), *more)

    def _spawn(self, part: str, module: str, *arguments: str) -> None:
        self._spawn_command(part, [sys.executable, "-m", module, *arguments])

    def _spawn_command(self, part: str, command: Sequence[str]) -> None:
        log_file = self.state / "run" / f"{part}.log"
        process = spawn(command, log=log_file, extra={"PYTHONPATH": str(PROJECT)})
        process.record(self.state / "run" / f"{part}.json")

    async def _start_node(self, node: str) -> None:
        directory = self.node_directory(node)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / machine.HOLD).unlink(missing_ok=True)
        command = [sys.executable, "-m", "e2e.cluster.machine", "--directory", str(directory), "--name", node, "--"]
        process = spawn(
            [*self._among_disks(), *command, *self._kubelet_command(node)],
            log=self.state / "run" / f"{node}.log",
            extra={"PYTHONPATH": str(PROJECT)},
        )
        if not await process.gone(within=START_LIMIT) or not self._runs(node):
            raise ClusterError(f"{node} did not start:\n{self._last_words(node)}")

    async def _insert_disks(self) -> None:
        ready = self.state / "run" / "disks.ready"
        ready.unlink(missing_ok=True)
        places = [str(self.node_directory(node) / machine.DISK) for node in self.nodes]
        self._spawn(DISKS, "e2e.cluster.disks", "--size", str(self.settings.disk), "--ready", str(ready), *places)
        async with asyncio.timeout(START_LIMIT):
            while not ready.exists():
                self._complain_if_dead(DISKS)
                await asyncio.sleep(0.02)

    def _among_disks(self) -> Sequence[str]:
        """What a command is to be preceded by, to begin where the nodes' disks are mounted."""
        holder = self.process(DISKS)
        return ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--"] if holder and holder.alive else []

    def _kubelet_command(self, node: str) -> list[str]:
        settings = self.settings
        third = settings.third + settings.nodes.index(node)
        network = f"127.{settings.second}.{third}.0/24"
        address = f"127.{settings.second}.{third}.1"
        kubeconfig = pki.kubeconfig(self.state, user=f"system:node:{node}", groups=["system:nodes"])
        serving = pki.sign_server(self.state, f"kubelet-{node}", names=[node], addresses=[address])
        return [
            *(sys.executable, "-m", "e2e.cluster.kubelet"),
            *("--kubeconfig", str(kubeconfig)),
            *("--node-name", node),
            *("--state", str(self.node_directory(node))),
            *("--pod-network", network),
            *("--tls-cert", str(serving.certificate)),
            *("--tls-key", str(serving.key)),
            *("--cgroup", f"{self.cgroup}/{node}"),
            *("--crash-backoff", str(settings.crash_backoff)),
            *("--crash-backoff-cap", str(settings.crash_backoff_cap)),
            *("--refresh", str(settings.refresh)),
            *("--heartbeat", str(settings.heartbeat)),
            *(f"--image={name}={entrypoint}" for name, entrypoint in settings.images.items()),
        ]

    def _kubelet(self, node: str) -> Process | None:
        """The kubelet in a node: among the children of the machine's first process, the one with the id it wrote down.

        The id in `kubelet.pid` is the node's; outside, the same process has another one.
        """
        host = self.machine(node)
        if host is None or not host.alive:
            return None
        with contextlib.suppress(OSError, ValueError):
            inside = (self.node_directory(node) / "kubelet.pid").read_text()
            for child in Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split():
                status = Path(f"/proc/{child}/status").read_text()
                ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                found = Process(int(child), start_time(int(child)))
                if ids[-1] == inside and found.alive:
                    return found
        return None

    async def _release_kubelet(self, node: str) -> None:
        (self.node_directory(node) / machine.HOLD).unlink(missing_ok=True)
        if host := self.machine(node):
            host.send(signal.SIGHUP)
        async with asyncio.timeout(START_LIMIT):
            while not self._runs(f"kubelet/{node}"):  # noqa: ASYNC110 - another process's state has no event
                await asyncio.sleep(0.05)


def check_machine() -> None:
    """Say in words what this machine lacks."""
    missing = [name for name in ("runc", "kubectl") if shutil.which(name) is None]
    if missing:
        raise ClusterError(f"not installed: {', '.join(missing)}")
    if "CAP_SYS_ADMIN" not in _capabilities():
        raise ClusterError("the local cluster needs root: it makes mounts and namespaces")


def _capabilities() -> set[str]:
    effective = next(
        int(line.split()[1], 16) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:")
    )
    return {"CAP_SYS_ADMIN"} if effective >> 21 & 1 else set()


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ones: all are held until the last is found."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _free_network(state: Path, *, nodes: int) -> tuple[int, int]:
    """Where the addresses of a cluster's nodes begin, with nothing on the kubelet's port: the second and the third byte. There are
    thousands of places to begin at, since a cluster that starts at the same moment holds no port yet either."""
    if nodes > _LARGEST:
        raise ClusterError(f"a local cluster has at most {_LARGEST} nodes")
    places = [(second, third) for second in range(16, 216) for third in range(1, 240 - _LARGEST, _LARGEST)]
    random.Random(str(state)).shuffle(places)
    for second, third in places:
        with socket.socket() as probe:
            try:
                probe.bind((f"127.{second}.{third}.1", 10250))
            except OSError:
                continue
            return second, third
    raise ClusterError("no free loopback network is left")


async def _is_healthy(api: ApiClient) -> bool:
    try:
        return await api.text("/readyz") == "ok"
    except (ApiError, aiohttp.ClientError, OSError, TimeoutError):
        return False


async def _is_ready(api: ApiClient, node: str) -> bool:
    try:
        found = await api.get(path("v1", "nodes", name=node))
    except (ApiError, aiohttp.ClientError, OSError, TimeoutError):
        return False
    conditions = (found.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def described(cluster: LocalCluster) -> Sequence[str]:
    """One line for each part: is it up, under which process id."""
    lines = []
    for name, process in cluster.parts().items():
        word = f"up    pid {process.pid}" if process and process.alive else "down"
        lines.append(f"{name:20} {word}")
    return lines
