"""Containers' logs, from the files that the shims write in the CRI format: `<time> <stream> <F|P> <text>`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

FOLLOW = 0.1  # seconds between looks at a file that is followed


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; None is no limit."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: datetime | None = None
    limit: int | None = None

    @classmethod
    def of(cls, query: dict[str, str]) -> Wanted:
        since = None
        if seconds := query.get("sinceSeconds"):
            since = datetime.now(UTC) - timedelta(seconds=int(seconds))
        elif moment := query.get("sinceTime"):
            since = datetime.fromisoformat(moment)
        return cls(
            follow=query.get("follow") in {"true", "1"},
            timestamps=query.get("timestamps") in {"true", "1"},
            tail=int(query["tailLines"]) if "tailLines" in query else None,
            since=since,
            limit=int(query["limitBytes"]) if "limitBytes" in query else None,
        )


def shown(line: bytes, wanted: Wanted) -> bytes | None:
    """A line of the file as it is answered, or None if it is too old."""
    stamp, _, tag, text = (line.rstrip(b"\n").split(b" ", 3) + [b""])[:4]
    if wanted.since is not None and _moment(stamp) < wanted.since:
        return None
    end = b"" if tag == b"P" else b"\n"
    return (stamp + b" " if wanted.timestamps else b"") + text + end


def _moment(stamp: bytes) -> datetime:
    return datetime.fromisoformat(stamp.decode()[:26] + "+00:00")


async def read(file: Path, wanted: Wanted, *, ended: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """The log, and with `follow` what is added to it until `ended` says that nothing more will come."""
    left = wanted.limit
    position = 0
    first = True
    while True:
        last_look = ended()
        data, position = _from(file, position)
        lines = data.splitlines(keepends=True)
        if first and wanted.tail is not None:
            lines = list(deque(lines, maxlen=wanted.tail))
        first = False
        chunk = b"".join(text for line in lines if (text := shown(line, wanted)) is not None)
        if left is not None:
            chunk, left = chunk[:left], left - len(chunk)
        if chunk:
            yield chunk
        if not wanted.follow or last_look or (left is not None and left <= 0):
            return
        await asyncio.sleep(FOLLOW)


def _from(file: Path, position: int) -> tuple[bytes, int]:
    """Whole lines after `position`, and where the next begins."""
    try:
        with file.open("rb") as opened:
            opened.seek(position)
            data = opened.read()
    except FileNotFoundError:
        return b"", position
    whole = data[: data.rfind(b"\n") + 1]
    return whole, position + len(whole)
