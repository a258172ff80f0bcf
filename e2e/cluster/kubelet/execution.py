"""`kubectl exec`, as the API server passes it on: a WebSocket that speaks v5.channel.k8s.io or v4.

Each message begins with the number of its channel. In v5, channel 255 names a channel that its sender closes: so the end
of standard input reaches the program, which v4 cannot say.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import struct
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import WSMsgType, web

from e2e.cluster.children import clean_environment

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CHUNK = 32 * 1024


@dataclass(frozen=True, slots=True)
class Streams:
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Streams:
        """kube-apiserver asks a kubelet for `input`, `output` and `error`; clients say `stdin`, `stdout`, `stderr`."""

        def asked(*names: str) -> bool:
            return any(query.get(name) in {"true", "1"} for name in names)

        return cls(asked("input", "stdin"), asked("output", "stdout"), asked("error", "stderr"), asked("tty"))


def outcome(code: int) -> dict[str, object]:
    """The Status on the error channel: Success, or the exit code as a cause."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


async def serve(request: web.Request, command: Sequence[str], streams: Streams) -> web.WebSocketResponse:
    """Run `command` for the peer, until it ends or the peer leaves, which kills it."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=30)
    await socket.prepare(request)
    session = _Terminal(socket, streams) if streams.tty else _Pipes(socket, streams)
    code = await session.run(command)
    if not socket.closed:
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes([ERROR]) + json.dumps(outcome(code)).encode())
    await socket.close()
    return socket


class _Session:
    """One process and one socket. The process's end ends it; the socket's end kills the process."""

    def __init__(self, socket: web.WebSocketResponse, streams: Streams) -> None:
        self._socket = socket
        self._streams = streams

    async def run(self, command: Sequence[str]) -> int:
        raise NotImplementedError

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.BINARY and message.data:
                await self._receive(message.data[0], message.data[1:])
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    async def _receive(self, channel: int, data: bytes) -> None:
        raise NotImplementedError

    async def _send(self, channel: int, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            await self._socket.send_bytes(bytes([channel]) + data)


class _Pipes(_Session):
    async def run(self, command: Sequence[str]) -> int:
        """Output is drained to its end before the exit code is told, or the last lines would be lost."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if self._streams.stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(),
        )
        self._stdin = process.stdin
        assert process.stdout and process.stderr
        listening = asyncio.create_task(self._listen(process), name="exec input")
        try:
            await asyncio.gather(self._copy(process.stdout, STDOUT), self._copy(process.stderr, STDERR))
            return await process.wait()
        finally:
            listening.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await asyncio.wait({listening})

    async def _copy(self, stream: asyncio.StreamReader, channel: int) -> None:
        while data := await stream.read(CHUNK):
            await self._send(channel, data)

    async def _receive(self, channel: int, data: bytes) -> None:
        if self._stdin is None or self._stdin.is_closing():
            return
        with contextlib.suppress(ConnectionError):
            if channel == STDIN:
                self._stdin.write(data)
                await self._stdin.drain()
            elif channel == CLOSE and data[:1] == bytes([STDIN]):
                self._stdin.close()


class _Terminal(_Session):
    """With a terminal: runc gets one end of a pseudo-terminal as its own, and passes it through to the container."""

    async def run(self, command: Sequence[str]) -> int:
        self._ours, theirs = os.openpty()
        os.set_blocking(self._ours, False)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=clean_environment({"TERM": "xterm"}),
            start_new_session=True,
        )
        os.close(theirs)
        self._process = process
        listening = asyncio.create_task(self._listen(process), name="exec input")
        copying = asyncio.create_task(self._copy(), name="exec output")
        try:
            code = await process.wait()
            await copying
            return code
        finally:
            for task in (listening, copying):
                task.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await asyncio.wait({listening, copying})
            os.close(self._ours)

    async def _copy(self) -> None:
        while data := await self._read():
            await self._send(STDOUT, data)

    async def _read(self) -> bytes:
        """What the terminal printed; empty when its other end is closed, which the kernel reports as EIO."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return os.read(self._ours, CHUNK)
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(self._ours, _resolve, readable)
                try:
                    await readable
                finally:
                    loop.remove_reader(self._ours)
            except OSError:
                return b""

    async def _receive(self, channel: int, data: bytes) -> None:
        if channel == STDIN and data:
            with contextlib.suppress(OSError):
                os.write(self._ours, data)
        elif channel == RESIZE:
            size = json.loads(data)
            packed = struct.pack("HHHH", size.get("Height", 0), size.get("Width", 0), 0, 0)
            with contextlib.suppress(OSError, ProcessLookupError):
                fcntl.ioctl(self._ours, termios.TIOCSWINSZ, packed)
                self._process.send_signal(signal.SIGWINCH)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
