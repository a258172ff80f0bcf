"""The node process as it is installed: how soon it is ready, and what it takes while nothing happens. And the mounter's start.

Kubelet and mount pods are played; the CSI calls and the node's mounts are real, but that tmpfs stands for the clients' file
systems: those are other processes, and to the node process a mount is a line in the kernel's table. All of it is in a mount
namespace of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from grpclib.client import Channel

from dynvol.api import names
from dynvol.api.identity import Workload
from dynvol.api.mounts import WantedMount
from dynvol.api.resources import CLASSES, LEASES, NODES, PODS, SECRETS
from dynvol.controllers.mountpodspec import credentials_digest
from dynvol.csi.proto import pluginregistration
from dynvol.csi.proto.csi import v1 as csi
from e2e.grounds.envtest import free_ports
from unit.controllers.node_played import STATE, PlayedMountPods, Table
from unit.mounter import fake_api

from .figure import Figure, Series
from .programs import PROJECT, environment
from .scene import APPS, CLASS, DRIVER, PATIENCE, Scene, at_once, node_name, pod, scene

NODE = node_name(0)
_SOON = 0.002
"""Seconds between looks at something that is about to come."""
_TICKS = os.sysconf("SC_CLK_TCK")


# --- Starting


async def start(kubeconfig: Path, *, rounds: int) -> list[Figure]:
    async with scene(kubeconfig) as stage:
        await stage.client.create(NODES, {"metadata": {"name": NODE}})
        ready = [await _until_ready(kubeconfig) for _ in range(rounds)]
    bare = Series("python -c pass", tuple(_python("pass")[0] for _ in range(rounds)))
    mounter = Series("until it reports", tuple([await _mounter() for _ in range(rounds)]))
    cpu = Series("python -c pass", tuple(_python("pass")[1] for _ in range(rounds)))
    return [
        Figure(
            "node process, start to ready", "s", Series("ready", tuple(ready)), bare, "0.8 s", lambda f: f.measured.median <= 0.8
        ),
        Figure("CPU of a mounter's start", "s", mounter, cpu, "0.25 s", lambda f: f.measured.median <= 0.25),
    ]


async def _until_ready(kubeconfig: Path) -> float:
    began = time.perf_counter()
    async with _process(kubeconfig) as node:
        await node.until_ready()
        return time.perf_counter() - began


def _python(code: str) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    began = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, "-c", code], environment())
    _, _, used = os.wait4(process, 0)
    return time.perf_counter() - began, used.ru_utime + used.ru_stime


async def _mounter() -> float:
    """Seconds of CPU until it has said of a first mount what becomes of it; here, that there is no such provider."""
    wanted = WantedMount(claim="bench/a", claim_uid="a", pod_uid="p", path="p/data", provider="none", spec_hash="1")
    async with fake_api.FakeApi() as api:
        await api.want(wanted)
        with tempfile.TemporaryDirectory(prefix="dynvol-bench-") as folder:
            places = {name: Path(folder, name) for name in ("root", "credentials", "run", "cache")}
            for place in places.values():
                place.mkdir()
            options = [word for name, place in places.items() for word in (f"--{name}", str(place))]
            command = [sys.executable, "-m", "dynvol.cli", "mounter", *options, "--api-server", api.url, "--log-level", "error"]
            variables = {**environment(), "POD_NAME": fake_api.NAME, "POD_NAMESPACE": fake_api.NAMESPACE}
            with _running(["unshare", "--mount", "--propagation=private", *command], variables) as process:
                await api.until(bool, within=PATIENCE)
                return _cpu(process.pid)


# --- At rest


async def footprint(kubeconfig: Path, *, pods: int, mounts: int, claims: int, seconds: float) -> list[Figure]:
    """Another node leads, which is played."""
    async with scene(kubeconfig) as stage:
        await stage.client.create(NODES, {"metadata": {"name": NODE}})
        await stage.client.create(LEASES, _held_by_another(), namespace=DRIVER)
        await _look_at_the_secret(stage)
        await at_once(stage.add_claim(f"other-{n}", app="web", on=f"elsewhere-{n}") for n in range(claims - mounts))
        async with _process(kubeconfig) as node:
            await node.until_ready()
            await _populate(stage, node, pods=pods, mounts=mounts)
            await asyncio.sleep(seconds)  # until the last reports are through
            before, used = node.requests(), _cpu(node.process.pid)
            await asyncio.sleep(seconds)
            asked = node.requests() - before
            share = (_cpu(node.process.pid) - used) / seconds * 100
            resident, proportional = node.memory()
    what = f"{pods} pods, {mounts} mounts, {claims} claims"
    return [
        Figure(f"node process, {what}", "MiB", _single("resident", resident), None, "64 MiB", lambda f: f.measured.median <= 64),
        Figure("its proportional share of that", "MiB", _single("PSS", proportional)),
        Figure("CPU at rest", "% of a core", _single("CPU", share), None, "0.5 %", lambda f: f.measured.median <= 0.5),
        Figure(
            "requests at rest, watches and the lease apart", "1/min", _single("requests", asked * 60 / seconds), None, "0", _none
        ),
    ]


def _none(figure: Figure) -> bool:
    return figure.measured.median == 0


def _single(name: str, value: float) -> Series:
    return Series(name, (value,))


def _held_by_another() -> dict[str, Any]:
    moment = "2026-01-01T00:00:00.000000Z"
    spec = {"holderIdentity": "another", "leaseDurationSeconds": 86400, "acquireTime": moment, "renewTime": moment}
    return {"metadata": {"name": names.LEADER_LEASE}, "spec": {**spec, "leaseTransitions": 0}}


async def _look_at_the_secret(stage: Scene) -> None:
    """Says what the leader would of the class."""
    provider_class = await stage.client.get(CLASSES, CLASS)
    namespace, name = provider_class.spec.secret
    secret = await stage.client.get(SECRETS, name, namespace=namespace)
    status = {"observedGeneration": provider_class.metadata.generation, "credentialsDigest": credentials_digest(secret)}
    await stage.client.merge_patch(CLASSES, CLASS, {"status": status}, subresource="status")


async def _populate(stage: Scene, node: _Node, *, pods: int, mounts: int) -> None:
    """Pods, of which `mounts` have a dynamic volume, published by the CSI driver, and a claim each."""
    table = _KernelTable(node)
    async with PlayedMountPods(stage.client, table, node=NODE, namespace=DRIVER).running():
        for number in range(pods):
            body = pod(f"web-{number}", node=NODE, on=f"here-{number}")
            if number >= mounts:
                del body["spec"]["volumes"], body["spec"]["containers"][0]["volumeMounts"]
            made = await stage.client.create(PODS, body, namespace=APPS)
            if number < mounts:
                uid = made.metadata.uid
                await node.publish(uid)
                whose = Workload.of(node=NODE, namespace=APPS, provider_class=CLASS, policy=names.INDEPENDENT, pod_uid=uid)
                table.publish(PurePosixPath(str(whose.root(STATE))), uid)
                await stage.add_claim(f"mine-{number}", on=f"here-{number}")
        for number in range(mounts):
            name = f"mine-{number}"
            await stage.until(lambda name=name: stage.mounted(name))  # type: ignore[misc]


class _KernelTable(Table):
    """One whose mounts are also made, as tmpfs, where the node process sees them."""

    def __init__(self, node: _Node) -> None:
        super().__init__()
        self._node = node

    def mount(self, path: PurePosixPath, source: str) -> None:
        place = self._node.state / path.relative_to(STATE)
        self._node.run("mkdir", "--parents", str(place))
        self._node.run("mount", "-t", "tmpfs", "-o", "size=4k", source, str(place))
        super().mount(path, source)


# --- The process


@dataclass(frozen=True, slots=True)
class _Node:
    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def run(self, *command: str) -> None:
        subprocess.run(["nsenter", f"--target={self.process.pid}", "--mount", *command], check=True)

    async def until_ready(self) -> None:
        """Registers the driver as kubelet would, which it takes to be ready."""
        async with asyncio.timeout(PATIENCE):
            socket = self.folder / "kubelet" / "plugins_registry" / f"{names.DRIVER}-reg.sock"
            await self._until(socket.is_socket)
            async with Channel(path=str(socket)) as channel:
                stub = pluginregistration.RegistrationStub(channel)
                await stub.get_info(pluginregistration.InfoRequest())
                await stub.notify_registration_status(pluginregistration.RegistrationStatus(plugin_registered=True))
            await self._until(self._says_ready)

    async def publish(self, pod_uid: str) -> None:
        """The dynamic volume of one pod."""
        volume = self.folder / "kubelet" / "pods" / pod_uid / "volumes" / "kubernetes.io~csi" / "bench"
        volume.mkdir(parents=True)
        context = {"ephemeral": "true", "pod.uid": pod_uid, "pod.name": "bench", "pod.namespace": APPS}
        request = csi.NodePublishVolumeRequest(
            volume_id=f"csi-{pod_uid}",
            target_path=str(volume / "mount"),
            readonly=True,
            volume_capability=csi.VolumeCapability(
                mount=csi.VolumeCapabilityMountVolume(),
                access_mode=csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER),
            ),
            volume_context={names.CLASS_ATTRIBUTE: CLASS, **{f"csi.storage.k8s.io/{key}": value for key, value in context.items()}},
        )
        async with Channel(path=str(self.folder / "kubelet" / "plugins" / names.DRIVER / "csi.sock")) as channel:
            await csi.NodeStub(channel).node_publish_volume(request)

    async def _until(self, holds: Any) -> None:
        while not await asyncio.to_thread(holds):
            if self.process.poll() is not None:
                raise RuntimeError(f"the node process ended with {self.process.returncode}")
            await asyncio.sleep(_SOON)

    def _says_ready(self) -> bool:
        try:
            return bool(self._get("/readyz"))
        except OSError:
            return False

    def requests(self) -> float:
        """To the API server so far, by its own metrics."""
        return sum(map(float, re.findall(r"^rest_client_requests_total\S* (\S+)", self._get("/metrics"), flags=re.MULTILINE)))

    def memory(self) -> tuple[float, float]:
        """MiB: resident, and its share of what others have mapped too."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        resident, proportional = (int(re.findall(rf"^{name}:\s+(\d+)", text, flags=re.MULTILINE)[0]) for name in ("Rss", "Pss"))
        return resident / 1024, proportional / 1024

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text


@asynccontextmanager
async def _process(kubeconfig: Path) -> AsyncIterator[_Node]:
    """`dynvol node`, until the block ends. Its mounts end with its mount namespace."""
    with tempfile.TemporaryDirectory(prefix="dynvol-bench-") as name:
        folder = Path(name)
        for place in ("kubelet/plugins_registry", "kubelet/plugins", "kubelet/pods", "state"):
            (folder / place).mkdir(parents=True)
        (port,) = free_ports(1)
        given = {
            "node-name": NODE,
            "pod-name": "dynvol-node",
            "namespace": DRIVER,
            "kubelet-dir": folder / "kubelet",
            "state-dir": folder / "state",
            "listen": f"127.0.0.1:{port}",
            "kubeconfig": kubeconfig,
            "mounter-image": "image",
            "log-level": "error",
        }
        command = [sys.executable, "-m", "dynvol.cli", "node", *(f"--{option}={value}" for option, value in given.items())]
        with _running(["unshare", "--mount", "--propagation=private", *command], environment()) as process:
            yield _Node(process, folder, port)


@contextmanager
def _running(command: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, env=variables, cwd=PROJECT, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)


def _cpu(pid: int) -> float:
    """Seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
