"""HTTP/1.1 as a client, as much as the mounter needs: one request on one connection, an answer read whole or as it comes.

A library would cost the mounter's start ten milliseconds of processor time, which the sample class's hundredth of a core
turns into a second. Requests are our own, answers are the API server's and S3's: a status line, headers, and a body that is
counted, chunked or ended by the connection. Anything else is `Garbled`. No redirects, no proxies, no keep-alive.

HttpProblem (Exception)
├── Unresolved     the host name is unknown
├── Refused        nothing listens
├── Unreachable    no route, or the connection broke
├── Untrusted      the certificate does not fit
├── NotTls         TLS was expected and is not spoken
└── Garbled        what came is not HTTP/1.1
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

import msgspec

_LONGEST_HEAD: Final = 65536
_LONGEST_BODY: Final = 8 << 20
_SYSTEM_AUTHORITIES: Final = "/etc/ssl/certs"


class HttpProblem(Exception):
    """No answer that could be understood."""


class Unresolved(HttpProblem): ...


class Refused(HttpProblem): ...


class Unreachable(HttpProblem): ...


class Untrusted(HttpProblem): ...


class NotTls(HttpProblem): ...


class Garbled(HttpProblem): ...


class Head(msgspec.Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    """Names in lower case; of repeated headers the last counts."""


def trust(ca_file: str = "") -> ssl.SSLContext:
    """A context that verifies against one file, or against the system's authorities, looked up one by one as needed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    elif os.path.isdir(_SYSTEM_AUTHORITIES):
        context.load_verify_locations(capath=_SYSTEM_AUTHORITIES)
    else:
        context.load_default_certs()
    return context


class Exchange:
    """An answer whose head has come. Iterate `chunks` for the body as it arrives, or `read` it whole."""

    def __init__(self, head: Head, reader: asyncio.StreamReader) -> None:
        self.head: Final = head
        self._reader = reader

    async def read(self) -> bytes:
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > _LONGEST_BODY:
                raise Garbled("the body is too long")
        return bytes(body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Ends with the body; raises Unreachable if the connection ends first."""
        headers = self.head.headers
        if self.head.status in (204, 304):
            return
        with _broken_connections():
            if headers.get("transfer-encoding", "").lower() == "chunked":
                while size := await self._chunk_size():
                    async for piece in self._counted(size):
                        yield piece
                    await self._reader.readexactly(2)
            elif "content-length" in headers:
                async for piece in self._counted(_number(headers["content-length"], base=10)):
                    yield piece
            else:
                while piece := await self._reader.read(65536):
                    yield piece

    async def _chunk_size(self) -> int:
        line = await self._reader.readuntil(b"\r\n")
        return _number(line.split(b";")[0].strip().decode("latin-1"), base=16)

    async def _counted(self, left: int) -> AsyncIterator[bytes]:
        while left:
            piece = await self._reader.read(min(left, 65536))
            if not piece:
                raise Unreachable("the connection ended in the middle of the answer")
            left -= len(piece)
            yield piece


@contextlib.asynccontextmanager
async def exchange(
    method: str,
    *,
    host: str,
    port: int,
    target: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Exchange]:
    """Send one request; the connection is closed when the block ends. Raises HttpProblem; sets no deadline of its own."""
    reader, writer = await _connect(host, port, tls)
    try:
        with _broken_connections():
            writer.write(_request(method, target, headers, body))
            await writer.drain()
            head = await _head(reader)
        yield Exchange(head, reader)
    finally:
        # Not waited for: there is nothing left to say, and a peer that hangs must not hold us.
        writer.transport.abort()


async def _connect(host: str, port: int, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=_LONGEST_HEAD)
    except socket.gaierror as error:
        raise Unresolved(f"{host} does not resolve: {error.strerror}") from error
    except UnicodeError as error:
        # The interpreter's codec for host names, before anyone is asked.
        raise Unresolved(f"{host} cannot be a host name: {error}") from error
    except ssl.SSLCertVerificationError as error:
        raise Untrusted(f"the certificate of {host}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise NotTls(f"{host}:{port}: {error.reason}") from error
    except ConnectionRefusedError as error:
        raise Refused(f"{host}:{port} refuses connections") from error
    except ConnectionResetError as error:
        raise (NotTls if tls else Unreachable)(f"{host}:{port} ended the connection") from error
    except OSError as error:
        # asyncio joins the errors of several addresses into one without a number.
        raise (Refused if "Connect call failed" in str(error) and error.errno is None else Unreachable)(str(error)) from error
    _keep_alive(writer.get_extra_info("socket"))
    return reader, writer


def _keep_alive(connection: socket.socket) -> None:
    """A watch is silent for minutes; this tells within one that its peer has gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        connection.setsockopt(socket.IPPROTO_TCP, option, seconds)


def _request(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "connection: close"]
    if body:
        lines.append(f"content-length: {len(body)}")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line break")
    return "\r\n".join((*lines, "", "")).encode() + body


async def _head(reader: asyncio.StreamReader) -> Head:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = text.split("\r\n")[:-2]
    version, _, rest = status_line.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise Garbled("the answer is not HTTP/1.1")
    fields = (line.partition(":") for line in lines)
    return Head(_number(rest[:3], base=10), {name.strip().lower(): value.strip() for name, _, value in fields})


@contextlib.contextmanager
def _broken_connections() -> Iterator[None]:
    try:
        yield
    except asyncio.LimitOverrunError as error:
        raise Garbled("a line of the answer is too long") from error
    except asyncio.IncompleteReadError as error:
        raise (Unreachable("the connection ended early") if not error.partial else Garbled("the answer is not HTTP")) from error
    except OSError as error:
        raise Unreachable(f"the connection broke: {error}") from error


def _number(text: str, *, base: int) -> int:
    try:
        value = int(text, base)
    except ValueError:
        raise Garbled("a number of the answer is none") from None
    if value < 0:
        raise Garbled("a number of the answer is negative")
    return value
