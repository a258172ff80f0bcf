"""HTTP as servers speak it, well and badly."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.mount.providers.contract import Answer, Request, Silence
from dynvol.mounter import ask, http
from unit.examples import examples

from .authority import Authority
from .storage import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await handler(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def saying(*parts: bytes) -> Handler:
    """Answers every request with the same bytes, then ends the connection in order."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof() if writer.can_write_eof() else None
        await reader.read()

    return handler


async def fetch(port: int) -> tuple[int, bytes]:
    async with http.exchange("GET", host="127.0.0.1", port=port, target="/", headers={"host": "x"}) as exchange:
        return exchange.head.status, await exchange.read()


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhe", b"llo and more than was announced"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;ext=1\r\nhe\r\n3", b"\r\nllo\r\n0\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo"),
        (b"HTTP/1.1 200\r\n\r\nhello",),
    ],
)
async def test_a_body_may_be_counted_chunked_or_ended(parts: tuple[bytes, ...]) -> None:
    async with listening(saying(*parts)) as port:
        assert await fetch(port) == (200, b"hello")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"half a head",
    ],
)
async def test_what_is_not_http_is_garbled(answer: bytes) -> None:
    async with listening(saying(answer)) as port:
        with pytest.raises(http.Garbled):
            await fetch(port)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_a_connection_that_ends_early_is_no_answer(answer: bytes) -> None:
    async with listening(saying(answer)) as port:
        with pytest.raises(http.Unreachable):
            await fetch(port)


def heard(data: bytes, pieces: list[int]) -> tuple[int, bytes]:
    """What is understood of an answer that comes in pieces. Raises HttpProblem."""

    async def story() -> tuple[int, bytes]:
        reader = asyncio.StreamReader(limit=65536)
        with http._broken_connections():
            listening = asyncio.create_task(_whole(reader), name="listening")
            rest = data
            for size in pieces:
                reader.feed_data(rest[:size])
                rest = rest[size:]
                await asyncio.sleep(0)
            reader.feed_data(rest)
            reader.feed_eof()
            return await listening

    return asyncio.run(story())


async def _whole(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    with http._broken_connections():
        exchange = http.Exchange(await http._head(reader), reader)
    return exchange.head.status, await exchange.read()


GOOD = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
]


@examples(50)
@given(st.sampled_from(GOOD), st.lists(st.integers(0, 20), max_size=10))
def test_how_an_answer_is_cut_into_pieces_makes_no_difference(answer: bytes, pieces: list[int]) -> None:
    assert heard(answer, pieces) == (200, b"hello")


@examples(50)
@given(st.sampled_from(GOOD), st.integers(0, 60))
def test_an_answer_that_ends_early_is_none(answer: bytes, at: int) -> None:
    if answer[at:]:
        with pytest.raises(http.HttpProblem):
            heard(answer[:at], [])


@examples(200)
@given(
    st.sampled_from(GOOD),
    st.integers(0, 70),
    st.integers(0, 10),
    st.binary(max_size=20) | st.text("0123456789-+_ef \r\n:;,", max_size=20).map(str.encode),
)
def test_no_answer_is_a_surprise(answer: bytes, at: int, cut: int, noise: bytes) -> None:
    with contextlib.suppress(http.HttpProblem):
        heard(answer[:at] + noise + answer[at + cut :], [])


async def test_a_header_cannot_smuggle_in_another() -> None:
    async with listening(saying(b"")) as port:
        with pytest.raises(ValueError, match="line break"):
            async with http.exchange("GET", host="127.0.0.1", port=port, target="/", headers={"x": "a\r\nb: c"}):
                pass


# --- asking the storage


def request(port: int, *, host: str = "127.0.0.1", tls: bool = False, ca_file: str = "") -> Request:
    return Request(tls, host, port, "/", {"host": host}, ca_file)


def context(authority: Authority) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(authority.certificate, authority.key)
    return made


async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks first, as a mail server does."""
    writer.write(b"220 ready\r\n")
    await reader.read()


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "a." * 200, ".", "\ud800"])
async def test_what_cannot_be_a_host_name_does_not_resolve(host: str) -> None:
    assert await ask.ask(request(80, host=host)) is Silence.UNRESOLVED


LIST = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


async def test_an_answer_comes_over_tls_that_the_given_authority_vouches_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with listening(LIST, tls=context(authority)) as port:
        assert await ask.ask(request(port, tls=True, ca_file=str(authority.ca))) == Answer(200, b"ok")


async def test_every_silence_has_its_cause(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    misnamed = Authority(tmp_path / "c", host="127.0.0.2")
    assert await ask.ask(request(free_port())) is Silence.REFUSED
    assert await ask.ask(request(free_port(), host="localhost")) is Silence.REFUSED
    assert await ask.ask(request(80, host="no-such-host.invalid")) is Silence.UNRESOLVED
    async with listening(LIST, tls=context(authority)) as port:
        assert await ask.ask(request(port, tls=True)) is Silence.UNTRUSTED
        assert await ask.ask(request(port, tls=True, ca_file=str(stranger.ca))) is Silence.UNTRUSTED
        assert await ask.ask(request(port)) in (Silence.GARBLED, Silence.UNREACHABLE)
    async with listening(LIST, tls=context(misnamed)) as port:
        assert await ask.ask(request(port, tls=True, ca_file=str(misnamed.ca))) is Silence.UNTRUSTED
    async with listening(greeting) as port:
        assert await ask.ask(request(port, tls=True)) is Silence.NOT_TLS


async def test_a_server_that_says_nothing_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "_DEADLINE", 0.2)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as port:
        assert await ask.ask(request(port)) is Silence.TIMED_OUT
        assert await ask.ask(request(port, tls=True)) is Silence.TIMED_OUT
