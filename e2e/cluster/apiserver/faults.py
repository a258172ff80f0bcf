"""Faults on demand, for tests of clients: slow, refused, failed requests, and watches that are cut.

POST /debug/faults with a JSON list replaces the faults in force; an empty list ends them. Each fault is
`{"methods": ["PATCH"], "path": "<regular expression>", "probability": 0.5, "latency": 0.2, "status": 409, "times": 3}`, all of it
optional: `status` 0 closes the connection without an answer. POST /debug/compact expires all watch history, POST /debug/cut ends
the open watches. For administrators only; /debug itself is never faulty.
"""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import msgspec

from e2e.cluster.apiserver.status import ApiError, bad_request, too_many_requests

_REASONS = {409: "Conflict", 410: "Expired", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    methods: list[str] = []
    path: str = ""
    probability: float = 1.0
    latency: float = 0.0
    status: int | None = None
    times: int | None = None
    """How many requests it still strikes; None for all."""

    def strikes(self, method: str, path: str) -> bool:
        if self.times == 0 or (self.methods and method not in self.methods) or not re.search(self.path, path):
            return False
        return random.random() < self.probability


class ConnectionRefused(Exception):
    """The connection is to be closed without an answer."""


class Faults:
    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def set(self, content: bytes) -> list[Any]:
        try:
            self._faults = msgspec.json.decode(content, type=list[Fault])
        except msgspec.MsgspecError as error:
            raise bad_request(f"no list of faults: {error}") from error
        return [msgspec.to_builtins(fault) for fault in self._faults]

    async def strike(self, method: str, path: str) -> None:
        """Delay or refuse the request as the first fault that concerns it says."""
        fault = next((fault for fault in self._faults if fault.strikes(method, path)), None)
        if fault is None:
            return
        if fault.times is not None:
            fault.times -= 1
        await asyncio.sleep(fault.latency)
        match fault.status:
            case None:
                return
            case 0:
                raise ConnectionRefused
            case 429:
                raise too_many_requests("a fault was injected", retry_after=1)
            case code:
                raise ApiError(code, _REASONS.get(code, "Unknown"), "a fault was injected")
