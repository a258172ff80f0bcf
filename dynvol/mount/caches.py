"""What clients have written and not uploaded yet: on the node's disk, beyond the life of any mount pod.

    <state dir>/cache/<class>/<uuid>            a mount pod's, and its successors'; locked by the mounter that works in it
        <source>.json                           what it takes to mount it again: the `WantedMount`, in which nothing is secret
        <source>/<number>                       one client's

A record is written before its cache comes into being, and removed after that has gone. So whoever comes later, when the claim,
the workload and the mount pod are no more, knows what the files are and where they belong.

Nothing is removed but whole caches, by someone who holds the lock, after a look at the mount table; a record that cannot be read
keeps its cache. Not here: who starts clients, and when.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from typing import Final

import msgspec

from dynvol.api.mounts import WantedMount
from dynvol.mount import mountinfo, providers

_log: Final = logging.getLogger(__name__)

_RECORD: Final = ".json"
_FRESH: Final = ".new"
_decoder: Final = msgspec.json.Decoder(WantedMount)


class Leftover(msgspec.Struct, frozen=True):
    """A cache in which something waits for its way into the storage."""

    mount: WantedMount
    files: int


class Held(Exception):
    """Another process works in this mount pod's caches."""


@contextlib.contextmanager
def holding(directory: str) -> Iterator[None]:
    """Alone in a mount pod's caches: an flock on their directory, which ends with the process. Raises Held, OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Held(directory) from error
        yield
    finally:
        os.close(fd)


def record(directory: str, mount: WantedMount) -> None:
    """Say what the cache that is about to be made will be of, or of whom it will be too. On disk when this returns, in whole or not
    at all."""
    path = f"{directory}/{mount.source}{_RECORD}"
    fresh = f"{path}.{threading.get_native_id()}{_FRESH}"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(mount))
        os.fsync(file.fileno())
    os.rename(fresh, path)


def recorded(directory: str) -> list[WantedMount]:
    """Of what there are caches. What cannot be read is named in the log and left alone."""
    found = (_read(f"{directory}/{name}") for name in sorted(_names(directory)) if name.endswith(_RECORD))
    return [mount for mount in found if mount is not None]


def leftovers(directory: str) -> list[Leftover]:
    """What waits in a mount pod's caches. Reads what a living client may be changing: then it is an estimate."""
    counted = (Leftover(mount, unflushed(directory, mount)) for mount in recorded(directory))
    return [leftover for leftover in counted if leftover.files]


def unflushed(directory: str, mount: WantedMount) -> int:
    """How many files of one mount are not in the storage, in all of its clients' caches."""
    return sum(waiting(f"{directory}/{mount.source}/{number}", mount) for number in numbers(directory, mount.source))


def waiting(cache: str, mount: WantedMount) -> int:
    """The same for one client's cache."""
    provider = providers.provider(mount.provider)
    return 0 if provider is None else provider.unflushed(mount.parameters, cache=cache)


def in_use(cache: str, *, pid: int) -> bool:
    """Whether the client with this process id has files of its cache open: it has those that programs may still write to."""
    for fd in _names(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(f"{cache}/"):
                return True
    return False


def numbers(directory: str, source: str) -> list[int]:
    """Of the clients that have a cache, the oldest first."""
    return sorted(int(name) for name in _names(f"{directory}/{source}") if name.isascii() and name.isdigit())


def remove(directory: str, source: str) -> bool:
    """Remove all caches of a mount and then its record. False if anything is mounted there, which then stays."""
    if not remove_one(f"{directory}/{source}"):
        return False
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/{source}{_RECORD}")
    return True


def remove_one(cache: str) -> bool:
    import shutil  # wanted at the end of a mount only, and heavier than all of this module

    table = mountinfo.read()
    if table.below(cache) or table.at(cache) is not None:
        _log.error("something is mounted below a cache, which therefore stays", extra={"path": cache})
        return False
    shutil.rmtree(cache, ignore_errors=True)
    return True


def release(directory: str) -> list[str]:
    """Remove a mount pod's caches that hold nothing, and its directory and that of its class when they are empty.

    For when no mount pod is to come. Returns what stays, in words; raises nothing.
    """
    try:
        with holding(directory):
            for mount in recorded(directory):
                if not unflushed(directory, mount):
                    remove(directory, mount.source)
            for name in _names(directory):
                if name.endswith(_FRESH):
                    os.unlink(f"{directory}/{name}")
            left = [f"{directory}/{name} holds what is not in the storage" for name in _names(directory)]
            if not left:
                os.rmdir(directory)
    except Held:
        return [f"{directory} is still in use"]
    except FileNotFoundError:
        left = []
    except OSError as error:
        return [f"{directory} cannot be removed: {error.strerror}"]
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(directory))
    return left


def _read(path: str) -> WantedMount | None:
    try:
        with open(path, "rb") as file:
            return _decoder.decode(file.read())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        _log.error("a cache's record cannot be read, and keeps its cache", extra={"path": path, "error": str(error)})
        return None


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
