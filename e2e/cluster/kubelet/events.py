"""Events about pods and the node, written in the background: telling must never delay doing.

The same thing said again is counted up on the first Event, as client-go's correlator does, and not written anew.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

from e2e.cluster.api import ApiClient, ApiError, Object, path
from e2e.cluster.kubelet.runtime import now

log = logging.getLogger(__name__)

_Key = tuple[str, str, str]


class Events:
    """`record` never blocks and never fails; `run` does the writing."""

    def __init__(self, api: ApiClient, *, component: str, host: str) -> None:
        self._api = api
        self._source = {"component": component, "host": host}
        self._queue: asyncio.Queue[tuple[Object, str, str, str, str]] = asyncio.Queue(maxsize=1000)
        self._written: dict[_Key, tuple[str, int, float]] = {}

    def record(self, about: Object, reason: str, message: str, *, kind: str = "Normal", container: str = "") -> None:
        log.info("event: pod=%s reason=%s %s", about["metadata"]["name"], reason, message)
        part = f"spec.containers{{{container}}}" if container else ""
        try:
            self._queue.put_nowait((about, reason, message, kind, part))
        except asyncio.QueueFull:
            log.warning("events: dropped one, the queue is full")

    async def run(self) -> None:
        while True:
            about, reason, message, kind, part = await self._queue.get()
            try:
                await self._write(about, reason, message, kind, part)
            except (ApiError, OSError, TimeoutError) as error:
                log.info("events: not written reason=%s error=%s", reason, error)

    async def _write(self, about: Object, reason: str, message: str, kind: str, part: str) -> None:
        metadata = about["metadata"]
        namespace = metadata.get("namespace") or "default"
        key = (metadata["uid"], reason, f"{part}{message}")
        name, count, _ = self._written.get(key, ("", 0, 0.0))
        if name:
            change = {"count": count + 1, "lastTimestamp": now()}
            try:
                await self._api.patch(path("v1", "events", namespace=namespace, name=name), change)
                self._written[key] = (name, count + 1, time.monotonic())
                return
            except ApiError as error:
                if error.code != 404:
                    raise
        name = f"{metadata['name']}.{secrets.token_hex(8)}"
        await self._api.create(path("v1", "events", namespace=namespace), self._body(about, name, reason, message, kind, part))
        self._remember(key, name)

    def _body(self, about: Object, name: str, reason: str, message: str, kind: str, part: str) -> Object:
        metadata = about["metadata"]
        involved = {
            "apiVersion": about.get("apiVersion", "v1"),
            "kind": about.get("kind", "Pod"),
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        if "namespace" in metadata:
            involved["namespace"] = metadata["namespace"]
        if part:
            involved["fieldPath"] = part
        moment = now()
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata.get("namespace") or "default"},
            "involvedObject": involved,
            "reason": reason,
            "message": message[:1024],
            "type": kind,
            "source": self._source,
            "reportingComponent": self._source["component"],
            "reportingInstance": self._source["host"],
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }

    def _remember(self, key: _Key, name: str) -> None:
        self._written[key] = (name, 1, time.monotonic())
        if len(self._written) > 2000:
            oldest = min(self._written, key=lambda each: self._written[each][2])
            del self._written[oldest]
