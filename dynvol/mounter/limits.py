"""What the container may use, read from its control group (version 1 and 2).

Inside a container the hierarchy's root is the container's own group, so its files are where this looks; on a host without a
limit there is none, which is right there.
"""

from __future__ import annotations

from typing import Final

_MEMORY: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNLIMITED: Final = 1 << 60
"""Version 1 says "no limit" as a number near 2**63."""


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
