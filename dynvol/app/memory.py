"""What the process keeps of memory that it does not need. For a process that there is one of on every node, that counts.

Two keepers are told to keep less. asyncio gives each TLS connection a buffer of 256 KiB to read into, and a watch, of which there
are half a dozen, has a connection of its own. And glibc, once something large was freed, keeps what is freed from then on, up to
32 MiB in one piece, for the next (mallopt(3), M_MMAP_THRESHOLD): lists come page by page when the process starts, and never again.
Not here: what the caches hold (`dynvol.controllers.view`).
"""

from __future__ import annotations

import ctypes
from asyncio import sslproto
from typing import Final

TLS_BUFFER: Final = 32 * 1024
"""Bytes: two records, of which one is at most 16 KiB (RFC 8446, 5.1)."""
GIVEN_BACK: Final = 64 * 1024
"""Bytes from which on what is freed goes back at once."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def keep_less() -> None:
    """To be called before connections are made and threads started. Where the C library is another one, it does as it does."""
    sslproto.SSLProtocol.max_size = TLS_BUFFER
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, GIVEN_BACK)
        mallopt(_M_TRIM_THRESHOLD, GIVEN_BACK)
        # Python's lock lets one thread allocate at a time: arenas of their own gain them nothing.
        mallopt(_M_ARENA_MAX, 1)
