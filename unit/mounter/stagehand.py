"""What the tests of the engine share: an engine on a stage of its own, with real clients, and what to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from dynvol.api import names
from dynvol.api.mounts import MountReport, Phase, WantedMount
from dynvol.mount import mountinfo, propagation
from dynvol.mount.executor import MountExecutor
from dynvol.mount.watch import MountWatcher
from dynvol.mounter import stage
from dynvol.mounter.ask import ask
from dynvol.mounter.engine import Engine
from dynvol.mounter.limits import Memory
from dynvol.mounter.process import Children
from dynvol.mounter.session import Session
from dynvol.mounter.stage import Stage
from dynvol.mounter.tools import Timing, Tools

from .storage import ACCESS_KEY, SECRET_KEY, Storage

T = TypeVar("T")

POD = "11111111-2222-3333-4444-555555555555"
QUICK = Timing(
    start=15,
    slow=2,
    first_retry=0.05,
    last_retry=0.5,
    lasting_retry=0.2,
    patience=0.3,
    linger=3,
    leave=2,
    flush_poll=0.05,
    flush_poll_slow=0.5,
)
WATCHFUL = msgspec.structs.replace(QUICK, look=0.3, stuck=1, hopeless=1)


def wanted(
    storage: Storage, claim: str = "a", *, at: str = "data", spec: str = "1", read_only: bool = False, **parameters: str
) -> WantedMount:
    """`a` is the claim's name and uid, `parameters` are added to those that reach bucket `a` of the storage."""
    return WantedMount(
        claim=f"test/{claim}",
        claim_uid=claim,
        pod_uid=POD,
        path=f"{POD}/{at}",
        provider="s3",
        spec_hash=spec,
        read_only=read_only,
        parameters={"bucket": "bucket-a", "endpoint": storage.url, "pathStyle": "true", **parameters},
    )


def wanted_of(
    provider: str, parameters: dict[str, str], *, at: str = "data", spec: str = "1", read_only: bool = False
) -> WantedMount:
    """One mount of any provider."""
    return WantedMount(
        claim="test/a",
        claim_uid="a",
        pod_uid=POD,
        path=f"{POD}/{at}",
        provider=provider,
        spec_hash=spec,
        read_only=read_only,
        parameters=parameters,
    )


class Hand:
    """An engine that runs, and ways to look at what it does."""

    def __init__(self, engine: Engine, stage: Stage, tools: Tools) -> None:
        self.engine = engine
        self.stage = stage
        self.tools = tools

    def shown(self, at: str = "data") -> Path:
        return Path(self.stage.root, POD, at)

    def session(self, mount: WantedMount) -> Session:
        return self.engine._sessions[mount.source]

    def client(self, mount: WantedMount) -> int:
        """The pid of the program that serves the mount."""
        return next(iter(self._clients(mount)))

    def has_client(self, mount: WantedMount) -> bool:
        return bool(self._clients(mount))

    def _clients(self, mount: WantedMount) -> list[int]:
        running = self.tools.children._running.values()
        return [child.pid for child in running if mount.source in _command_line(child.pid)]

    def keeps_waiting(self, mount: WantedMount) -> bool:
        """Whether a program waits for the client of the mount."""
        life = self.session(mount)._life
        return life is not None and life.holds_requests()

    async def until(self, condition: Callable[[list[MountReport]], bool], *, within: float = 20.0) -> list[MountReport]:
        """The reports, once they are as they should be."""
        version = self.engine.version
        try:
            async with asyncio.timeout(within):
                while not condition(found := self.engine.reports()):
                    version = await self.engine.newer_than(version)
        except TimeoutError:
            raise AssertionError(f"still: {self.engine.reports()}") from None
        return found

    async def mounted(self, *mounts: WantedMount) -> None:
        self.engine.set_wanted(mounts)
        await self.until(lambda found: [r.phase for r in found] == [Phase.MOUNTED] * len(mounts))

    async def failed(self, mount: WantedMount) -> MountReport:
        self.engine.set_wanted([mount])
        (found,) = await self.until(lambda found: [r.phase for r in found] == [Phase.FAILED])
        return found

    async def failed_soon(self, mount: WantedMount) -> MountReport:
        """The report with a reason, though the client itself may still be trying."""
        self.engine.set_wanted([mount])
        (found,) = await self.until(
            lambda found: [r.spec_hash for r in found] == [mount.spec_hash] and found[0].reason not in ("", "Changing")
        )
        return found

    async def until_true(self, condition: Callable[[], bool], *, within: float = 10.0) -> None:
        """For what no event tells: a file that a client makes."""
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def prepare(playground: str, *, secret: dict[str, str] | None = None, for_pods: bool = True) -> Stage:
    place = Stage(f"{playground}/xvols", f"{playground}/run", f"{playground}/cache", f"{playground}/secret", for_pods)
    for directory in (f"{place.root}/{POD}" if for_pods else place.root, place.credentials):
        os.makedirs(directory, exist_ok=True)
    for key, value in ({names.ACCESS_KEY: ACCESS_KEY, names.SECRET_KEY: SECRET_KEY} if secret is None else secret).items():
        Path(place.credentials, key).write_text(value)
    if for_pods:
        publish(place)
    return place


def publish(place: Stage, pod: str = POD) -> None:
    """Make a pod's directory what the node process makes of it: a mount with a peer group of its own."""
    directory = f"{place.root}/{pod}"
    propagation.attach_bind(directory, directory, propagation=propagation.OWN_PEER_GROUP)


@contextlib.asynccontextmanager
async def engine(
    place: Stage,
    *,
    timing: Timing = QUICK,
    left: Sequence[WantedMount] = (),
    memory: int | None = None,
    table_late_by: float = 0.005,
) -> AsyncIterator[Hand]:
    """An engine in its tasks. Afterwards nothing of it is left, or the test fails; caches may be."""
    with stage.opened(place):
        watching = MountWatcher(quiet=table_late_by)
        async with Children() as children, watching as watcher, MountExecutor(threads=32, drain=2.0) as executor:
            tools = Tools(place, children, watcher, executor, ask, Memory(memory), timing)
            running = Engine(tools)
            running.adopt(left)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(running.run(), name="engine")
                yield Hand(running, place, tools)
                await running.close(within=10)
            assert not children._running, "a client is left"
            assert os.listdir(f"{place.run}/mnt") == os.listdir(f"{place.run}/secrets") == [], "private files are left"
    assert not [m for m in mountinfo.read() if m.source.startswith("dynvol-")], "a mount is left"


async def in_thread(function: Callable[[], T]) -> T:
    """What asks a file system must not be on the loop that supervises its client."""
    return await asyncio.to_thread(function)


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
