"""The mounter on its own: one root, one socket, until it is told to stop.

On SIGTERM it turns away calls, flushes and unmounts all, and leaves with 0; what was wanted stays on record, and is mounted again
in the next life. Its clients die with it in any case, so it takes their mounts away rather than leave dead ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from dynvol.mount import caches, mountinfo, paths
from dynvol.mount.errors import UnsafePath
from dynvol.mount.executor import MountExecutor
from dynvol.mount.watch import MountWatcher
from dynvol.mounter import stage
from dynvol.mounter.ask import ask
from dynvol.mounter.engine import Engine
from dynvol.mounter.limits import Memory, memory_limit
from dynvol.mounter.process import Children
from dynvol.mounter.secretwatch import watching
from dynvol.mounter.stage import Stage
from dynvol.mounter.tools import Timing, Tools
from dynvol.observe import logs
from dynvol.rpc.errors import SocketProblem
from dynvol.rpc.listener import Access, UnixServer
from dynvol.rpc.operations import Operations
from dynvol.service.client import socket_path
from dynvol.service.errors import CODES, RecordsUnreadable, RootInUse
from dynvol.service.mounts import Mounts
from dynvol.service.records import Records
from dynvol.service.server import MounterService

_log: Final = logs.get(__name__)

_LAST_KILL: Final = 3.0
"""Seconds that clients may take to end once they were given up."""
_LAST_ANSWERS: Final = 2.0
"""Seconds for callers to take what they are told at the end."""


class Settings(msgspec.Struct, frozen=True):
    stage: Stage
    state: str
    """Directory on disk, of this service alone."""
    socket: Path
    access: Access
    grace: float = 30.0
    """Seconds for flushing and unmounting at the end."""
    timing: Timing = Timing()


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Raises RootInUse, RecordsUnreadable, SocketProblem, OSError."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    os.makedirs(settings.state, mode=0o700, exist_ok=True)
    with _alone(settings), stage.opened(settings.stage):
        _warn_if_private(settings.stage.root)
        async with (
            Children(adopting=os.getpid() == 1) as children,
            MountWatcher() as watcher,
            MountExecutor(threads=32, drain=2.0) as executor,
            Operations(grace=_LAST_ANSWERS) as operations,
        ):
            tools = Tools(settings.stage, children, watcher, executor, ask, Memory(memory_limit()), settings.timing)
            engine = Engine(tools)
            engine.adopt(caches.recorded(settings.stage.cache))
            mounts = Mounts(engine, settings.stage, records=Records(settings.state), executor=executor, operations=operations)
            await mounts.restore()
            with _watching(settings.stage.credentials, engine):
                await _answer(settings, engine, mounts, until=asked)
    _log.info("left as asked")


async def _answer(settings: Settings, engine: Engine, mounts: Mounts, *, until: asyncio.Event) -> None:
    """Serve calls. The socket stays to the end: callers are told that the service is being stopped, rather than nothing."""
    services = [MounterService(mounts)]
    async with (
        UnixServer(settings.socket, services, codes=CODES, access=settings.access, drain=_LAST_ANSWERS),
        asyncio.TaskGroup() as tasks,
    ):
        _log.info("serving", socket=str(settings.socket), root=settings.stage.root)
        tasks.create_task(engine.run(), name="engine")
        await until.wait()
        _log.info("asked to leave; flushing and unmounting")
        mounts.close()
        await engine.close(within=settings.grace - _LAST_ANSWERS - _LAST_KILL)


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the root and the state against a second service, also one in another container: at its start it would take away all our
    mounts, as those of an earlier life. The locks go with the process."""
    with contextlib.ExitStack() as stack:
        for directory in (settings.stage.root, settings.state):
            try:
                stack.enter_context(caches.holding(directory))
            except caches.Held as held:
                raise RootInUse(f"another service works in {directory}") from held
        yield


@contextlib.contextmanager
def _watching(credentials: str, engine: Engine) -> Iterator[None]:
    """Sets that come later are known too, but changes of those go unnoticed until a client starts."""
    with contextlib.ExitStack() as stack:
        for directory in _sets(credentials):
            stack.enter_context(watching(directory, engine.refresh_credentials))
        yield


def _sets(credentials: str) -> list[str]:
    """The default set's directory and those in it. Kubelet's own begin with two dots."""
    try:
        with os.scandir(credentials) as entries:
            return [credentials, *(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith(".."))]
    except FileNotFoundError:
        return []


def _warn_if_private(root: str) -> None:
    mount = mountinfo.read().containing(root)
    if mount is not None and mount.peer_group is None:
        _log.warning("mounts will show nowhere but here: the root is not shared; bind it with rshared propagation", root=root)


def main(
    *, root: str, listen: str, socket_mode: str, socket_owner: str, credentials: str, run: str, state: str, grace: float
) -> int:
    """Returns the exit status."""
    try:
        own = paths.canonical(state)
        settings = Settings(
            stage=Stage(paths.canonical(root), paths.canonical(run), f"{own}/cache", credentials, for_pods=False),
            state=own,
            socket=socket_path(listen),
            access=access(socket_mode, socket_owner),
            grace=grace,
        )
        asyncio.run(serve(settings))
    except (ValueError, UnsafePath, RootInUse, RecordsUnreadable, SocketProblem, OSError) as problem:
        sys.stderr.write(f"dynvol mounter serve: {problem}\n")
        return 1
    return 0


def access(mode: str, owner: str) -> Access:
    """From `0660` and `USER:GROUP`, `USER` or `:GROUP`, names or numbers. Raises ValueError."""
    user, _, group = owner.partition(":")
    try:
        bits = int(mode, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise ValueError(f"{mode!r} is no mode of a socket; 0660 is one")
    return Access(bits, _user(user), _group(group))


def _user(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid if name else -1
    except KeyError:
        raise ValueError(f"there is no user {name!r}") from None


def _group(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid if name else -1
    except KeyError:
        raise ValueError(f"there is no group {name!r}") from None
