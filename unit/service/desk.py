"""A service with real clients, a real S3 server and a real socket, and the calls that tests make."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
from grpclib.exceptions import GRPCError

from dynvol.api import names
from dynvol.mounter.tools import Timing
from dynvol.rpc.listener import UnixServer
from dynvol.rpc.operations import Operations
from dynvol.service.client import connected
from dynvol.service.errors import CODES
from dynvol.service.mounts import Mounts
from dynvol.service.proto.dynvol.mounter import v1 as wire
from dynvol.service.records import Records
from dynvol.service.server import MounterService
from unit.mounter.stagehand import QUICK, Hand, engine, prepare
from unit.mounter.storage import ACCESS_KEY, SECRET_KEY, Storage, serving

KEYS = {names.ACCESS_KEY: ACCESS_KEY, names.SECRET_KEY: SECRET_KEY}
PROMPT = msgspec.structs.replace(QUICK, slow=0.3)


class Desk:
    """One life of a service, and a client of it."""

    def __init__(self, mounter: wire.MounterStub, mounts: Mounts, hand: Hand, storage: Storage, address: str) -> None:
        self.mounter = mounter
        self.mounts = mounts
        self.hand = hand
        self.storage = storage
        self.address = address
        self.records = Path(os.path.dirname(hand.stage.cache), "mounts.json")

    def shown(self, at: str = "data") -> Path:
        return Path(self.hand.stage.root, at)

    def request(
        self, at: str = "/data", *, bucket: str = "bucket-a", sent: dict[str, str] | None = None, **given: str
    ) -> wire.MountRequest:
        parameters = {"bucket": bucket, "endpoint": self.storage.url, **given}
        return wire.MountRequest(path=at, provider="s3", parameters=parameters, credentials=sent or {})

    async def mount(self, request: wire.MountRequest, *, timeout: float = 30) -> wire.Mount:
        answer = await self.mounter.mount(request, timeout=timeout)
        assert answer.mount is not None
        return answer.mount

    async def unmount(self, at: str = "/data", *, timeout: float = 30) -> None:
        await self.mounter.unmount(wire.UnmountRequest(path=at), timeout=timeout)

    async def all(self) -> dict[str, tuple[wire.Phase, str]]:
        return {m.path: (m.phase, m.reason) for m in (await self.mounter.list()).mounts}

    async def until(self, wanted: dict[str, tuple[wire.Phase, str]]) -> None:
        async with asyncio.timeout(40):
            version = self.mounts.version
            while await self.all() != wanted:
                version = await self.mounts.newer_than(version)


async def code_of(call: Awaitable[object]) -> str:
    """Of a call that fails."""
    try:
        await call
    except GRPCError as error:
        return error.status.name
    except TimeoutError:
        return "DEADLINE_EXCEEDED"
    raise AssertionError("the call succeeded")


@contextlib.asynccontextmanager
async def living(playground: str, storage: Storage, *, timing: Timing = PROMPT) -> AsyncIterator[Desk]:
    """A life on the state that an earlier one left there. Afterwards nothing of it is mounted, or the test fails."""
    place = prepare(playground, for_pods=False)
    address = f"unix://{playground}/m.sock"
    async with engine(place, timing=timing) as hand, Operations(grace=1) as operations:
        mounts = Mounts(hand.engine, place, records=Records(playground), executor=hand.tools.executor, operations=operations)
        await mounts.restore()
        server = UnixServer(Path(playground, "m.sock"), [MounterService(mounts)], codes=CODES, drain=1)
        async with server, connected(address) as mounter:
            yield Desk(mounter, mounts, hand, storage, address)
            mounts.close()
            await hand.engine.close(within=1)


def play(playground: str, *lives: Callable[[Desk], Awaitable[None]], timing: Timing = PROMPT) -> None:
    """Lives of a service, one after another, with a storage that has `bucket-a` with the object `hello`."""

    async def scene() -> None:
        with serving(Path(playground, "s3")) as storage:
            storage.make_bucket("bucket-a", hello="hello from a\n")
            for life in lives:
                async with living(playground, storage, timing=timing) as desk:
                    await life(desk)

    asyncio.run(scene())
