"""What the other end of a socket gets, and when."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from dynvol.rpc.gathering import Gathering


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Gathering, socket.socket]]:
    """One end, and the socket of who is at the other."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, sock=ours)
    with closing(theirs), closing(transport):
        yield Gathering(transport), theirs
    await asyncio.sleep(0)


async def test_the_parts_of_an_answer_are_sent_at_once() -> None:
    async with connected() as (ours, theirs):
        ours.write(b"headers ")
        ours.write(b"trailers")
        with pytest.raises(BlockingIOError):
            theirs.recv(99)
        await asyncio.sleep(0)
        assert theirs.recv(99) == b"headers trailers"


async def test_what_was_written_before_closing_is_sent() -> None:
    async with connected() as (ours, theirs):
        ours.write(b"last words")
        ours.close()
        assert theirs.recv(99) == b"last words"
        assert ours.is_closing()


async def test_a_connection_that_is_cut_sends_no_more() -> None:
    async with connected() as (ours, theirs):
        ours.write(b"too late")
        ours.abort()
        await asyncio.sleep(0)
        assert theirs.recv(99) == b""
