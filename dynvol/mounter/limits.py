"""What the container may use, read from its control group (version 1 and 2), and each client's share of it.

Inside a container the hierarchy's root is the container's own group, so its files are where this looks; on a host without a
limit there is none, which is right there.
"""

from __future__ import annotations

from typing import Final

_MEMORY: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNLIMITED: Final = 1 << 60
"""Version 1 says "no limit" as a number near 2**63."""
_MOUNTER: Final = 24 << 20
"""Bytes for the mounter itself, and for what the kernel counts beside its clients."""
_LEAST: Final = 16 << 20
"""Bytes that a client is given in any case. How many of them a mount pod has room for, the node process decides."""


def memory_limit(files: tuple[str, ...] = _MEMORY) -> int | None:
    """Bytes, None if there is no limit or none can be read."""
    for path in files:
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < _UNLIMITED else None
    return None


class Memory:
    """What is dealt out to clients, who learn their share at their start and keep it to their end.

    What is free is never given away whole: three quarters of it are divided among the mounts that have nothing yet, so that
    something is there for one that comes later. A client that starts again finds what is free then.
    """

    def __init__(self, limit: int | None = None) -> None:
        """`limit` in bytes, of the mounter and all clients together; None if there is none."""
        self._limit = limit
        self._mounts: set[str] = set()
        self._shares: dict[tuple[str, int], int] = {}

    def expect(self, source: str) -> None:
        """There will be clients for this mount, until it is forgotten."""
        self._mounts.add(source)

    def forget(self, source: str) -> None:
        self._mounts.discard(source)

    def take(self, source: str, number: int) -> int | None:
        """Bytes for one client of a mount. What it has already counts as free."""
        if self._limit is None:
            return None
        self.give_back(source, number)
        without = self._mounts - {source for source, _ in self._shares} | {source}
        free = self._limit - _MOUNTER - sum(self._shares.values())
        share = self._shares[source, number] = max(_LEAST, free * 3 // 4 // len(without))
        return share

    def give_back(self, source: str, number: int) -> None:
        self._shares.pop((source, number), None)

    @property
    def least(self) -> int | None:
        """For a program that takes a look and ends."""
        return None if self._limit is None else _LEAST
