"""Stands between the FUSE clients and the S3 server, and is as bad a network as it is told to be.

It copies bytes and knows no S3, but for the one answer that a server gives which refuses to work.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from types import TracebackType
from typing import Self

from e2e.cluster.lifecycle import free_port

DELAY = 1.5
"""Seconds by which each piece of an answer is late while it is slow."""
_PIECE = 65536
_REFUSAL_BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_REFUSAL = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    + f"Content-Length: {len(_REFUSAL_BODY)}\r\n\r\n".encode()
    + _REFUSAL_BODY
)


class Mood(Enum):
    WELL = "well"
    DOWN = "down"
    """Connections are reset, and no new ones taken."""
    SLOW = "slow"
    REFUSING = "refusing"
    """Every request is answered with 503."""
    BLACK_HOLE = "black hole"
    """Connections are taken, requests read, and nothing is ever said, on those that are open neither."""


class Proxy:
    """`async with Proxy(port)`: listens at `endpoint`, which stays the same, and passes on to `port` on loopback."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._port = free_port()
        self._mood = Mood.WELL
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Not by cancelling: `asyncio.streams`, whose tasks these are, takes that for a failure of theirs."""
        await self._deafen()
        self._take(Mood.WELL)
        while self._tasks:
            self._cut()
            await asyncio.wait(self._tasks, timeout=0.1)

    async def become(self, mood: Mood) -> None:
        """From one mood to another, connections that were held in a bad one are cut: a network that is mended sends resets."""
        before = self._mood
        self._take(mood)
        if mood in (Mood.DOWN, Mood.REFUSING) or before is Mood.BLACK_HOLE:
            self._cut()
        if mood is Mood.DOWN:
            await self._deafen()
        elif self._server is None:
            await self._listen()

    def _take(self, mood: Mood) -> None:
        self._mood = mood
        self._changed.set()
        self._changed = asyncio.Event()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mood is Mood.REFUSING:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_REFUSAL)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return
        await self._vanish()
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        self._open.add(back_writer)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._copy(reader, back_writer, late=False), name="request")
                tasks.create_task(self._copy(back_reader, writer, late=True), name="answer")
        except* OSError:
            pass
        finally:
            self._open.discard(back_writer)
            back_writer.transport.abort()

    async def _vanish(self) -> None:
        """What has fallen into a black hole does not come out again when that is gone: a request of a client that is no more would
        reach the server in part, and after one that was made anew."""
        if self._mood is Mood.BLACK_HOLE:
            while self._mood is Mood.BLACK_HOLE:
                await self._changed.wait()
            raise ConnectionResetError("lost in the black hole")

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        while data := await reader.read(_PIECE):
            if late and self._mood is Mood.SLOW:
                await asyncio.sleep(DELAY)
            await self._vanish()
            writer.write(data)
            await writer.drain()
        if late:
            raise ConnectionResetError("the server has closed")
        writer.write_eof()
