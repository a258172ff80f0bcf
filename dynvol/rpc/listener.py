"""A gRPC server on a Unix socket, together with the socket's file.

The file is there from the moment at which someone listens until the moment at which no one does, is never open to more than it
should be, never takes a living process's place, and what a killed process left behind does not stand in the way.
A file that someone takes away is put back, for no client would find us any more (kubelet looks when it starts anew).
Leaving drains: no new connections, no new calls, those in flight may end, then the connections are closed. grpclib alone would
cancel the calls, leave the peers waiting and the file behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from grpclib.config import Configuration
from grpclib.encoding.proto import ProtoCodec
from grpclib.events import RecvMessage, listen
from grpclib.protocol import H2Protocol
from grpclib.server import Server
from hyperframe.frame import GoAwayFrame

from .calls import CallObserver, Calls, Service, log_request, unobserved
from .errors import Codes, SocketInUse, SocketProblem, SocketUnusable
from .gathering import Gathering

_log: Final = logging.getLogger(__name__)

_PATH_LIMIT: Final = 107
"""Bytes of sun_path without its NUL (unix(7)); kubelet could not connect to a longer one."""
_WINDOW: Final = 1024 * 1024
"""Bytes that a client may send ahead of us, per call and per connection."""
_CLOSE_WAIT: Final = 1.0
"""Seconds for a peer to take what was written before its connection is cut."""
_LOOK_AFTER: Final = 10.0
"""Seconds between looks at the file. Kubelet looks for sockets when it starts, and when one appears."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect: to write to the socket is to connect. Whoever may can have things mounted."""

    mode: int = 0o600
    uid: int = -1
    """-1, here and for the group: this process's."""
    gid: int = -1


ROOT_ONLY: Final = Access()


class UnixServer:
    """Serves while it is entered. `drain` is how many seconds calls in flight get on leaving."""

    def __init__(
        self,
        path: Path,
        services: Sequence[Service],
        *,
        codes: Codes,
        access: Access = ROOT_ONLY,
        observer: CallObserver = unobserved,
        drain: float = 10.0,
        look_after: float = _LOOK_AFTER,
    ) -> None:
        self.path: Final = path
        self._services = services
        self._codes = codes
        self._access = access
        self._observer = observer
        self._drain = drain
        self._look_after = look_after

    async def __aenter__(self) -> Self:
        """Raises SocketInUse, SocketUnusable, OSError."""
        self._calls = Calls(self._codes, self._observer)
        self._server = _Server([self._calls.guard(service) for service in self._services])
        listen(self._server, RecvMessage, log_request)
        await self._open()
        self._leaving = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._tasks.create_task(self._keep(), name=f"keep {self.path}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """1. The file goes, then the listener: no new connections. 2. New calls are refused, and clients told to go elsewhere.
        3. Calls in flight end, or are cancelled. 4. Connections are closed, or cut."""
        try:
            self._leaving.set()
            await self._tasks.__aexit__(None, None, None)
            await asyncio.to_thread(self._file.remove)
            self._server.stop_listening()
            self._calls.refuse()
            self._server.say_goodbye()
            await self._until_idle()
        finally:
            await self._server.disconnect()

    async def present(self) -> bool:
        """Whether the socket's file is still the one that was made here."""
        return await asyncio.to_thread(self._file.is_ours)

    async def _open(self) -> None:
        self._file = await asyncio.to_thread(SocketFile.bind, self.path, access=self._access)
        await self._server.listen_on(self._file.socket)

    async def _keep(self) -> None:
        """Put the file back when it is gone, until we leave. One that is another's is left alone: `present` says so."""
        while not await self._is_leaving(within=self._look_after):
            if await self.present():
                continue
            try:
                await self._open()
            except (SocketProblem, OSError) as error:
                _log.error("the socket is not ours any more", extra={"socket": str(self.path), "error": str(error)})
            else:
                _log.warning("the socket had been removed and was made anew", extra={"socket": str(self.path)})

    async def _is_leaving(self, *, within: float) -> bool:
        """An event, not a cancellation: one that came while a socket is being made would leave its file behind."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._leaving.wait()
        return self._leaving.is_set()

    async def _until_idle(self) -> None:
        try:
            async with asyncio.timeout(self._drain):
                await self._calls.idle()
        except TimeoutError:
            _log.warning("calls did not end in time and are cancelled", extra={"socket": str(self.path)})


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A listening socket and the file by which it is reached. All of it blocks, shortly."""

    path: Path
    socket: socket.socket
    inode: tuple[int, int]

    @classmethod
    def bind(cls, path: Path, *, access: Access = ROOT_ONLY) -> SocketFile:
        """Listen at `path`. Raises SocketInUse, SocketUnusable, OSError.

        1. What is there already is looked at: only a socket on which no one listens may be replaced. 2. The new one is bound
        under a name of its own, next to it, listens, and is given to whom it belongs. 3. It takes the path by rename, in one step.
        The hidden name is as long as the real one, and kubelet overlooks names with a dot
        (pkg/kubelet/pluginmanager/pluginwatcher).
        """
        if len(os.fsencode(path)) > _PATH_LIMIT:
            raise SocketUnusable(f"the path of a socket may have {_PATH_LIMIT} bytes, {path} has {len(os.fsencode(path))}")
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_replaceable(path)
        hidden = path.with_name(f".{path.name[:-1]}")
        hidden.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # On Linux the file takes its mode from the socket, so it is never more open than this, whatever the umask.
            os.fchmod(bound.fileno(), ROOT_ONLY.mode)
            bound.bind(os.fsencode(hidden))
            bound.listen(128)
            _grant(hidden, access)
            inode = _inode(hidden)
            hidden.rename(path)
        except BaseException:
            bound.close()
            raise
        return cls(path, bound, inode)

    def is_ours(self) -> bool:
        try:
            return _inode(self.path) == self.inode
        except OSError:
            return False

    def remove(self) -> None:
        """If it is still ours: a process that took our place keeps its file."""
        if self.is_ours():
            self.path.unlink(missing_ok=True)


def _grant(path: Path, access: Access) -> None:
    """The owner before the mode: there is no moment at which others may connect than are meant."""
    os.chown(path, access.uid, access.gid, follow_symlinks=False)
    os.chmod(path, access.mode)


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _check_replaceable(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketUnusable(f"{path} is there and is not a socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fsencode(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:  # Its backlog is full: someone is alive, if not well.
            pass
    raise SocketInUse(f"another process listens on {path}; is there a second dynvol?")


class _Connection(H2Protocol):
    """Tells when it is made and when it is lost."""

    def __init__(self, protocol: H2Protocol, connections: set[_Connection]) -> None:
        super().__init__(protocol.handler, protocol.config, protocol.h2_config)
        self._connections = connections
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = Gathering(transport)
        super().connection_made(self.transport)
        self._connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connections.discard(self)
        if not self.lost.done():
            self.lost.set_result(None)

    def say_goodbye(self) -> None:
        """GOAWAY: calls up to here are served, others are to be made elsewhere. h2 could send it too, but would take nothing more
        afterwards, not even the answers to calls in flight."""
        frame = GoAwayFrame(0, last_stream_id=self.connection._connection.highest_inbound_stream_id)
        if not self.transport.is_closing():
            self.transport.write(frame.serialize())

    def close(self) -> None:
        self.processor.close(reason="Server is being stopped")

    def cut(self) -> None:
        self.transport.abort()


class _Server(Server):
    """grpclib's server, with its connections in hand."""

    def __init__(self, services: Sequence[Any]) -> None:
        config = Configuration(http2_connection_window_size=_WINDOW, http2_stream_window_size=_WINDOW)
        super().__init__(services, codec=ProtoCodec(), config=config)
        self._connections: set[_Connection] = set()
        self._listeners: list[asyncio.AbstractServer] = []

    def _protocol_factory(self) -> H2Protocol:
        return _Connection(super()._protocol_factory(), self._connections)

    async def listen_on(self, bound: socket.socket) -> None:
        """Also on this one: connections made through a socket whose file is gone go on."""
        if self._server is None:
            await self.start(sock=bound)
        else:
            self._listeners.append(await self._loop.create_unix_server(self._protocol_factory, sock=bound))

    def stop_listening(self) -> None:
        assert self._server is not None
        for listener in (self._server, *self._listeners):
            listener.close()

    def say_goodbye(self) -> None:
        for connection in tuple(self._connections):
            connection.say_goodbye()

    async def disconnect(self) -> None:
        """Cancels what is still running, closes all connections, and waits for both."""
        self.close()
        for connection in tuple(self._connections):
            connection.close()
        await self._lost(_CLOSE_WAIT)
        for connection in tuple(self._connections):
            connection.cut()
        await self._lost(_CLOSE_WAIT)
        # On Python 3.12 and later this waits for connections, of which none is left; a defect there must not hold us up.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_WAIT):
                await self.wait_closed()

    async def _lost(self, seconds: float) -> None:
        if self._connections:
            await asyncio.wait([connection.lost for connection in self._connections], timeout=seconds)
