"""The edge of the Kubernetes API that the mounter touches, for tests: one pod that can be listed, watched and patched.

What it can do wrong on request is what real ones do: refuse, end watches, forget versions, be away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from dynvol.api import mounts, names
from dynvol.api.mounts import MountReport, WantedMount

NAMESPACE, NAME, UID = "dynvol-system", "dynvol-mount-1", "pod-uid-1"


class FakeApi:
    """An async context manager; `url` is where it listens, or listened, while it is `away`."""

    def __init__(self) -> None:
        self.annotations: dict[str, str] = {}
        self.uid = UID
        self.version = 1
        self.tokens: list[str] = []
        self.lists = 0
        self.patches: list[dict[str, Any]] = []
        self.refuse_patches = 0
        self.knows_us = True
        """Otherwise every request is answered with 401. Watches that are open go on, as with a real server."""
        self.denials = 0
        self.deleted = False
        self.deletion_timestamp = ""
        self.expire_watches = 0
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.come_back()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.go_away()

    async def come_back(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def go_away(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._connections:
            writer.transport.abort()
        await self._server.wait_closed()

    async def want(self, *wanted: WantedMount) -> None:
        await self.annotate(names.WANTED_ANNOTATION, mounts.encode(wanted))

    async def annotate(self, name: str, value: str) -> None:
        async with self._changed:
            self.annotations[name] = value
            self.version += 1
            self._changed.notify_all()

    async def delete(self) -> None:
        """Tells those who watch. Lists go on as before: a test that deletes decides how they are answered."""
        async with self._changed:
            self.deleted = True
            self.version += 1
            self._changed.notify_all()

    def end_watches(self) -> None:
        for writer in self._connections:
            writer.transport.abort()

    @property
    def reports(self) -> list[MountReport]:
        return mounts.decode_reports(self.annotations.get(names.REPORT_ANNOTATION, ""))

    async def until_reported(self, *phases: str, within: float = 20.0) -> list[MountReport]:
        """The report, once it has exactly these phases."""
        return await self.until(lambda found: [r.phase for r in found] == list(phases), within=within)

    async def until(self, condition: Callable[[list[MountReport]], bool], *, within: float = 20.0) -> list[MountReport]:
        """The report, once there is one and it is as it should be."""
        try:
            async with asyncio.timeout(within), self._changed:
                await self._changed.wait_for(lambda: names.REPORT_ANNOTATION in self.annotations and condition(self.reports))
        except TimeoutError:
            raise AssertionError(f"still: {self.reports}") from None
        return self.reports

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.tokens.append(headers.get("authorization", ""))
        query = parse_qs(urlsplit(target).query)
        if not self.knows_us:
            await self._deny()
            _whole(writer, 401, {"kind": "Status", "code": 401, "message": "Unauthorized"})
        elif method == "PATCH":
            await self._patch(json.loads(body), writer)
        elif "watch" in query:
            await self._watch(int(query["resourceVersion"][0]), writer)
        else:
            assert query["fieldSelector"] == [f"metadata.name={NAME}"]
            self.lists += 1
            _whole(writer, 200, {"metadata": {"resourceVersion": str(self.version)}, "items": [self._pod()]})

    async def until_denied(self, times: int, *, within: float = 30.0) -> None:
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(lambda: self.denials >= times)

    async def _deny(self) -> None:
        async with self._changed:
            self.denials += 1
            self._changed.notify_all()

    async def _patch(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.patches.append(body)
        if self.refuse_patches:
            self.refuse_patches -= 1
            _whole(writer, 500, {"kind": "Status", "code": 500, "message": "etcd has no leader"})
        elif body["metadata"]["uid"] != self.uid:
            causes = [{"reason": "FieldValueInvalid", "message": "field is immutable", "field": "metadata.uid"}]
            _whole(writer, 422, {"kind": "Status", "code": 422, "message": "invalid", "details": {"causes": causes}})
        else:
            for name, value in body["metadata"]["annotations"].items():
                await self.annotate(name, value)
            _whole(writer, 200, self._pod())

    async def _watch(self, version: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\n")
        if self.expire_watches:
            self.expire_watches -= 1
            _chunk(writer, {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}})
            writer.write(b"0\r\n\r\n")
            return
        while True:
            version = await self._newer_than(version)
            _chunk(writer, {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}})
            _chunk(writer, {"type": "DELETED" if self.deleted else "MODIFIED", "object": self._pod()}, pieces=2)
            await writer.drain()

    async def _newer_than(self, version: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: self.version > version)
            return self.version

    def _pod(self) -> dict[str, Any]:
        metadata = {"name": NAME, "namespace": NAMESPACE, "uid": self.uid, "resourceVersion": str(self.version)}
        if self.deletion_timestamp:
            metadata["deletionTimestamp"] = self.deletion_timestamp
        return {"kind": "Pod", "metadata": {**metadata, "annotations": self.annotations}, "spec": {"containers": []}}


def _whole(writer: asyncio.StreamWriter, status: int, body: object) -> None:
    data = json.dumps(body).encode()
    writer.write(f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)


def _chunk(writer: asyncio.StreamWriter, event: object, *, pieces: int = 1) -> None:
    """One line of a watch; in several chunks, none of which ends where the line does."""
    data = json.dumps(event).encode() + b"\n"
    size = len(data) // pieces
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
