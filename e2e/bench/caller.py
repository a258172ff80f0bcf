"""Calls a CSI driver as kubelet does, with gRPC's C core, in a process of its own: what is measured is the driver, not its caller.

    python -m e2e.bench.caller ROOT --rounds N --crowds N --few N --crowd N

`ROOT` is where the driver's machine is seen from here (`/proc/<id>/root`). Prints one JSON object, all times in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec

from dynvol.api import names
from dynvol.csi.proto.csi import v1 as csi
from dynvol.mount import propagation, syscalls
from dynvol.mount.propagation import Propagation

_CLASS = "bench"
_MODE = csi.VolumeCapabilityAccessModeMode.SINGLE_NODE_WRITER


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds. `bare` and `alone` are pairs: made, undone. `few` and `crowd` are pairs too, for each of so many at once."""

    bare: tuple[tuple[float, float], ...]
    alone: tuple[tuple[float, float], ...]
    few: tuple[tuple[float, float], ...]
    crowd: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a node's own view of its files begins, seen from here, and the node's names for what is needed of them."""

    root: str
    kubelet_dir: str = names.KUBELET_DIR
    state_dir: str = names.STATE_DIR

    def here(self, path: str) -> Path:
        return Path(self.root + path)


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume of a pod that no one knows: the driver asks no one."""

    machine: Machine
    uid: str

    @property
    def target(self) -> str:
        return f"{self.machine.kubelet_dir}/pods/{self.uid}/volumes/kubernetes.io~csi/bench/mount"

    @property
    def publication(self) -> bytes:
        return bytes(
            csi.NodePublishVolumeRequest(
                volume_id=f"csi-{self.uid}",
                target_path=self.target,
                readonly=True,
                volume_capability=csi.VolumeCapability(
                    mount=csi.VolumeCapabilityMountVolume(), access_mode=csi.VolumeCapabilityAccessMode(mode=_MODE)
                ),
                volume_context={
                    names.CLASS_ATTRIBUTE: _CLASS,
                    "csi.storage.k8s.io/ephemeral": "true",
                    "csi.storage.k8s.io/pod.uid": self.uid,
                    "csi.storage.k8s.io/pod.name": "bench",
                    "csi.storage.k8s.io/pod.namespace": "bench",
                },
            )
        )

    @property
    def unpublication(self) -> bytes:
        return bytes(csi.NodeUnpublishVolumeRequest(volume_id=f"csi-{self.uid}", target_path=self.target))


@contextmanager
def volumes(machine: Machine, number: int) -> Iterator[list[Volume]]:
    """With the directories that kubelet makes for each."""
    made = [Volume(machine, str(uuid.uuid4())) for _ in range(number)]
    parents = [machine.here(volume.target).parent for volume in made]
    for parent in parents:
        parent.mkdir(parents=True)
    yield made
    for parent in parents:
        for directory in (parent, *parent.parents[:3]):
            if directory.name != "pods":
                directory.rmdir()


class Driver:
    """Its two calls, as bytes in and bytes out."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.publish = self._call(channel, "NodePublishVolume")
        self.unpublish = self._call(channel, "NodeUnpublishVolume")

    def _call(self, channel: grpc.Channel, name: str) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        return channel.unary_unary(f"/csi.v1.Node/{name}", request_serializer=None, response_deserializer=None)


@contextmanager
def driver(machine: Machine) -> Iterator[Driver]:
    socket = machine.here(f"{machine.kubelet_dir}/plugins/{names.DRIVER}/csi.sock")
    with tempfile.TemporaryDirectory() as short:
        # The path of a socket holds 107 bytes, and this one is far from the root.
        link = f"{short}/csi.sock"
        os.symlink(socket, link)
        with grpc.insecure_channel(f"unix:{link}") as channel:
            yield Driver(channel)


def alone(called: Driver, machine: Machine) -> tuple[float, float]:
    return together(called, machine, 1)


def together(called: Driver, machine: Machine, number: int) -> tuple[float, float]:
    """So many at once: for each of them, until the last is answered. Begun when nothing is left to do for those before."""
    with volumes(machine, number) as crowd:
        publish = timed(lambda: all_of([called.publish.future(volume.publication) for volume in crowd]))
        unpublish = timed(lambda: all_of([called.unpublish.future(volume.unpublication) for volume in crowd]))
    roots = machine.here(f"{machine.state_dir}/xvols/{_CLASS}")
    while _names(roots):  # kubelet does not wait for that
        time.sleep(0.005)
    return publish / number, unpublish / number


def _names(directory: Path) -> list[str]:
    """The last that leaves takes the directory along."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def all_of(under_way: Iterable[grpc.Future[bytes]]) -> None:
    for call in under_way:
        call.result()


def bare() -> tuple[float, float]:
    """A directory that is a shared mount, bound read-only as a slave, and all of it undone."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")

        def make() -> None:
            source.mkdir()
            target.mkdir()
            propagation.bind(str(source), str(source))
            propagation.make_shared(str(source))
            propagation.attach_bind(str(source), str(target), propagation=(Propagation.SLAVE,), read_only=True)

        def undo() -> None:
            syscalls.unmount(str(target))
            syscalls.unmount(str(source))
            target.rmdir()
            source.rmdir()

        return timed(make), timed(undo)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.caller")
    parser.add_argument("root")
    parser.add_argument("--rounds", type=int, required=True, help="of one volume at a time")
    parser.add_argument("--crowds", type=int, required=True, help="how often many come at once")
    parser.add_argument("--few", type=int, required=True, help="how many are few")
    parser.add_argument("--crowd", type=int, required=True, help="how many are many")
    given = parser.parse_args(argv)
    machine = Machine(given.root)
    with driver(machine) as called:
        alone(called, machine)  # the first call connects
        # In turns, so that the machine's other guests disturb both alike.
        pairs = [(bare(), alone(called, machine)) for _ in range(given.rounds)]
        crowds = [(together(called, machine, given.few), together(called, machine, given.crowd)) for _ in range(given.crowds)]
    bares, alones = zip(*pairs, strict=True)
    few, crowd = zip(*crowds, strict=True)
    sys.stdout.write(msgspec.json.encode(Times(bare=bares, alone=alones, few=few, crowd=crowd)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
