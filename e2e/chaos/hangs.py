"""Rounds of mounts that hang: a FUSE client that was stopped, or a storage that swallows everything, under a program that uses it.

    python -m e2e.chaos.hangs --rounds 1000

The CSI server that kubelet talks to and the engine that runs in a mount pod work here side by side in one process, with a real
kernel, real clients and a real S3 server, but without a cluster: so a thousand rounds take minutes. In each one a volume is
published and a bucket mounted, then it hangs, and then

    every CSI call is answered in time, while a program hangs in the mount;
    the claim goes (the mount is not wanted any more), and the pod (the volume is unpublished), in time;
    the program gets free, and neither mount nor connection nor client is left.

At the end this process has no more threads, descriptors, tasks or children than after the first rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from grpclib.client import Channel

from dynvol.api import names
from dynvol.api.identity import Workload
from dynvol.api.mounts import Phase, WantedMount
from dynvol.csi.kernel import KernelTargets
from dynvol.csi.proto.csi import v1 as csi
from dynvol.csi.requests import Node
from dynvol.csi.server import CsiServer
from dynvol.mount import mountinfo, targets
from dynvol.mount.executor import MountExecutor
from dynvol.mount.watch import MountWatcher
from dynvol.mounter import stage
from dynvol.mounter.ask import ask
from dynvol.mounter.engine import Engine
from dynvol.mounter.limits import Memory
from dynvol.mounter.process import Children
from dynvol.mounter.stage import Stage
from dynvol.mounter.tools import Timing, Tools
from e2e.chaos.proxy import Mood, Proxy
from e2e.cluster import mounts
from e2e.cluster.s3 import S3Server

ANSWER = 10.0
"""Seconds within which a CSI call is answered; kubelet gives it two minutes, and its probes one to five seconds."""
END = 60.0
"""Seconds for a claim, and for a pod, to go. With the timing of a mount pod the parts of it are longer."""
HASTY = Timing(
    patience=0.1, linger=0.3, leave=0.4, slow=5.0, first_retry=0.05, last_retry=0.5, look=0.3, stuck=0.5, flush_poll=0.05
)
POD = "0b1c2d3e-0000-4000-8000-000000000001"
ACCESS, KEY = "hangs-access-key", "hangs-secret-key-which-is-long"
WARM = 5
"""Rounds after which the process has all that it keeps; one of each kind."""
SLACK = {"threads": 3, "descriptors": 4, "tasks": 3, "children": 0}
KINDS = (
    ("s3fs", "stopped"),
    ("rclone", "stopped"),
    ("s3fs", "black-holed"),
    ("rclone", "black-holed"),
    ("rclone", "stopped with data"),
)


@dataclass(slots=True)
class Scene:
    """One node's sides: kubelet's, by `channel`, and a mount pod's, by `engine`."""

    node: Node
    channel: Channel
    engine: Engine
    children: Children
    s3: S3Server
    proxy: Proxy
    target: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """How long things took."""

    async def round(self, number: int) -> None:
        client, how = KINDS[number % len(KINDS)]
        mount = self.wanted(client, number)
        await self._publish()
        self.engine.set_wanted([mount])
        await self._until(lambda: [r.phase for r in self.engine.reports()] == [Phase.MOUNTED], "mounted")
        minor = next(m.minor for m in mountinfo.read() if m.source == mount.source)
        await self._hang(how, number)
        with _program(self.target / "data") as program:
            await self._answers()
            self.engine.set_wanted([])
            if how == "stopped with data":
                await self.proxy.become(Mood.WELL)
            await self._timed(f"claim gone, {client} {how}", self.engine.until_idle())
            await asyncio.to_thread(program.wait, END)
        await self._timed("pod gone", self._unpublish())
        await self.proxy.become(Mood.WELL)
        if how == "stopped with data":
            assert (await self.s3.get("data", f"dirty-{number}")) == b"closed", "what was closed is not in the storage"
        left = [m.label for m in mountinfo.read() if m.source.startswith("dynvol-c") or m.minor == minor and m.is_fuse]
        assert not left, f"round {number}: {left}"
        assert not self.children._running, f"round {number}: a client is left"

    def wanted(self, client: str, number: int) -> WantedMount:
        parameters = {"bucket": "data", "endpoint": self.proxy.endpoint, "pathStyle": "true", "mounter": client}
        return WantedMount(
            claim="hangs/claim",
            claim_uid=f"c{number}",
            pod_uid=POD,
            path=f"{POD}/data",
            provider="s3",
            spec_hash="1",
            parameters=parameters,
        )

    async def _hang(self, how: str, number: int) -> None:
        """`stopped with data`: a file was closed that the client could not upload before it was stopped. A client that has not yet
        looked into the directory would have to do that first."""
        await asyncio.to_thread(os.listdir, self.target / "data")
        if how != "stopped":
            await self.proxy.become(Mood.BLACK_HOLE)
        if how == "stopped with data":
            await asyncio.to_thread((self.target / "data" / f"dirty-{number}").write_bytes, b"closed")
        if how != "black-holed":
            for child in self.children._running.values():
                child.signal(signal.SIGSTOP)

    # --- kubelet

    @property
    def _volume(self) -> str:
        return "csi-" + "0" * 64

    async def _publish(self) -> None:
        context = {
            "csi.storage.k8s.io/ephemeral": "true",
            "csi.storage.k8s.io/pod.uid": POD,
            "csi.storage.k8s.io/pod.namespace": "hangs",
            "csi.storage.k8s.io/pod.name": "pod",
            names.CLASS_ATTRIBUTE: "class",
        }
        request = csi.NodePublishVolumeRequest(
            volume_id=self._volume,
            target_path=str(self.target),
            volume_capability=csi.VolumeCapability(
                mount=csi.VolumeCapabilityMountVolume(),
                access_mode=csi.VolumeCapabilityAccessMode(mode=csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER),
            ),
            readonly=True,
            volume_context=context,
        )
        self.target.parent.mkdir(parents=True, exist_ok=True)
        await csi.NodeStub(self.channel).node_publish_volume(request, timeout=ANSWER)

    async def _answers(self) -> None:
        """All that kubelet and its probes may ask meanwhile."""
        node, identity = csi.NodeStub(self.channel), csi.IdentityStub(self.channel)
        stats = csi.NodeGetVolumeStatsRequest(volume_id=self._volume, volume_path=str(self.target))
        await self._timed("CSI: probe", identity.probe(csi.ProbeRequest(), timeout=ANSWER))
        await self._timed("CSI: stats", node.node_get_volume_stats(stats, timeout=ANSWER))
        await self._timed("CSI: info", node.node_get_info(csi.NodeGetInfoRequest(), timeout=ANSWER))
        await self._timed("CSI: publish again", self._publish())

    async def _unpublish(self) -> None:
        request = csi.NodeUnpublishVolumeRequest(volume_id=self._volume, target_path=str(self.target))
        await csi.NodeStub(self.channel).node_unpublish_volume(request, timeout=ANSWER)

    # --- waiting

    async def _timed(self, what: str, work: Awaitable[object]) -> None:
        began = time.monotonic()
        async with asyncio.timeout(END):
            await work
        self.seconds.setdefault(what, []).append(time.monotonic() - began)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        version = self.engine.version
        try:
            async with asyncio.timeout(END):
                while not condition():
                    version = await self.engine.newer_than(version)
        except TimeoutError:
            raise AssertionError(f"not {what}: {self.engine.reports()}") from None


def held() -> dict[str, int]:
    """What this process holds now."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "children": len(children),
    }


class _program:
    """A program that looks for a file that was never looked for: it hangs until the mount is let go."""

    def __init__(self, directory: Path) -> None:
        self._command = ["stat", "--", str(directory / os.urandom(8).hex())]

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(END)


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """In a mount namespace of its own: whatever goes wrong, nothing of it stays on the machine."""
    node = Node("node-1", PurePosixPath(folder, "kubelet"), PurePosixPath(folder, "state"))
    workload = Workload.of(node=node.name, namespace="hangs", provider_class="class", policy=names.INDEPENDENT, pod_uid=POD)
    place = Stage(str(workload.root(node.state_dir)), f"{folder}/run", f"{folder}/cache", f"{folder}/secret")
    _furnish(place, node)
    s3 = S3Server(folder / "s3", access_key=ACCESS, secret_key=KEY)
    with stage.opened(place):
        async with (
            s3,
            Proxy(s3.port) as proxy,
            MountExecutor() as node_side,
            CsiServer(KernelTargets(node_side), node=node, version="0") as server,
            Children() as children,
            MountWatcher() as watcher,
            MountExecutor(threads=32, drain=2.0) as executor,
        ):
            await s3.make_bucket("data")
            engine = Engine(Tools(place, children, watcher, executor, ask, Memory(), HASTY))
            async with asyncio.TaskGroup() as tasks, Channel(path=str(server.endpoint)) as channel:
                tasks.create_task(engine.run(), name="engine")
                target = Path(node.kubelet_dir, "pods", POD, "volumes/kubernetes.io~csi/volume/mount")
                yield Scene(node, channel, engine, children, s3, proxy, target)
                await proxy.become(Mood.WELL)
                await engine.close(within=END)
    left = targets.release_root(place.root).left
    assert not left, left


def _furnish(place: Stage, node: Node) -> None:
    for directory in (place.credentials, node.state_dir):
        os.makedirs(directory)
    for name, text in ((names.ACCESS_KEY, ACCESS), (names.SECRET_KEY, KEY)):
        Path(place.credentials, name).write_text(text)


async def play(rounds: int) -> dict[str, list[float]]:
    """Raises AssertionError and TimeoutError."""
    with tempfile.TemporaryDirectory(prefix="hangs-", ignore_cleanup_errors=True) as folder:
        async with scene(Path(folder)) as there:
            before: dict[str, int] = {}
            for number in range(rounds):
                await there.round(number)
                if number + 1 == WARM:
                    before = held()
            after = held()
            assert all(after[what] <= before[what] + SLACK[what] for what in after), f"before {before}, after {after}"
            print(f"{rounds} rounds; this process held {before} after {WARM} of them, {after} after all", flush=True)
            return there.seconds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.chaos.hangs", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1000)
    rounds = parser.parse_args(argv).rounds
    mounts.unshare(mounts.CLONE_NEWNS)
    mounts.make_private(Path("/"), recursive=True)
    for what, seconds in asyncio.run(play(rounds)).items():
        ordered = sorted(seconds)
        print(f"{what:32} median {ordered[len(ordered) // 2]:6.3f} s   longest {ordered[-1]:6.3f} s   of {len(ordered)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
