"""Cuts a stream of bytes into lines of any length: a watch sends one JSON document per line, and an object may be megabytes.

What follows the last newline when the stream ends was cut off by whoever ended it, and is no line.
"""

from __future__ import annotations

from typing import Final

LINE_LIMIT: Final = 64 * 1024 * 1024
"""Bytes. etcd takes 1.5 MiB per object by default and the API server's JSON may be several times as long; this is far beyond."""


class LineTooLong(Exception):
    """The peer sends no newline; it is no API server's watch."""


class LineSplitter:
    """Feed it chunks; it gives the lines that they complete, without their newlines, and keeps the rest.

    The rest is kept as the chunks it came in, so a long line costs its length once and not once per chunk.
    """

    def __init__(self, *, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._rest: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises `LineTooLong`. Empty lines are dropped."""
        if b"\n" not in chunk:
            self._keep(chunk)
            return []
        head, *lines = chunk.split(b"\n")
        first = b"".join((*self._rest, head))
        self._rest, self._length = [], 0
        self._keep(lines.pop())
        return [line for line in (first, *lines) if line]

    def _keep(self, chunk: bytes) -> None:
        self._rest.append(chunk)
        self._length += len(chunk)
        if self._length > self._limit:
            raise LineTooLong(f"no end of line within {self._limit} bytes")
