"""A FUSE client started by hand: the very command that the mounter would run, on this machine, with nothing around it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dynvol.mount.providers.contract import Command, Credentials, Place
from dynvol.mount.providers.s3 import S3
from dynvol.mounter.limits import Memory
from e2e.grounds.ground import ObjectStore

from .sight import Sight


def command(place: Place, parameters: Mapping[str, str], store: ObjectStore) -> Command:
    keys = Credentials(access_key=store.access, secret_key=store.key)
    return S3().client(parameters, read_only=False, credentials=keys).command(place)


@dataclass(frozen=True, slots=True)
class Started:
    """A client that serves. `took` is in milliseconds, from its start until an object could be read."""

    process: subprocess.Popen[bytes]
    mountpoint: str
    took: float


@contextmanager
def started(parameters: Mapping[str, str], store: ObjectStore, *, memory: int, wanted: str) -> Iterator[Started]:
    """`memory` in bytes, as the class would grant; `wanted` is the object that is waited for."""
    with tempfile.TemporaryDirectory(prefix="dynvol-bench-") as folder:
        place = Place("by-hand", f"{folder}/mnt", f"{folder}/secrets", f"{folder}/cache", Memory(memory).take("by-hand", 0))
        made = command(place, parameters, store)
        for directory in (place.mountpoint, place.secrets, place.cache):
            Path(directory).mkdir(mode=0o700)
        for name, content in made.files.items():
            path = Path(place.secrets, name)
            path.touch(mode=0o600)
            path.write_bytes(content)
        began = time.perf_counter()
        quiet = subprocess.DEVNULL
        with subprocess.Popen(made.argv, env=dict(made.environment), stdin=quiet, stdout=quiet, stderr=quiet) as process:
            try:
                came = Sight(os.getpid()).readable(f"{place.mountpoint}/{wanted}")
                yield Started(process, place.mountpoint, (came - began) * 1000)
            finally:
                subprocess.run(["umount", "--lazy", place.mountpoint], check=False, stderr=quiet)
                process.terminate()


def start(parameters: Mapping[str, str], store: ObjectStore, *, memory: int, wanted: str) -> float:
    """Milliseconds from the start of a client until an object could be read."""
    with started(parameters, store, memory=memory, wanted=wanted) as found:
        return found.took


def end(parameters: Mapping[str, str], store: ObjectStore, *, memory: int, wanted: str) -> float:
    """Milliseconds that `fusermount3 -u` takes until it is gone."""
    with started(parameters, store, memory=memory, wanted=wanted) as found:
        began = time.perf_counter()
        with subprocess.Popen(["fusermount3", "-u", found.mountpoint]):
            gone = Sight(os.getpid()).gone(found.mountpoint)
        return (gone - began) * 1000
