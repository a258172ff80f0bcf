"""How quiet the machine was: a fixed piece of work, timed before and after all else, and how far its rounds are apart."""

from __future__ import annotations

import hashlib
import os
import time

from .figure import Series

ROUNDS, FEW = 40, 5
_BLOCK = bytes(1 << 20)


def reference(name: str, *, short: bool = False) -> Series:
    """Milliseconds of each round of hashing eight mebibytes."""
    return Series(name, tuple(_round() for _ in range(FEW if short else ROUNDS)))


def said(before: Series, after: Series) -> str:
    """One line on how far the figures can be trusted."""
    drift = after.median / before.median
    spread = max(s.percentile(0.95) / s.percentile(0.05) for s in (before, after))
    word = "quiet" if spread < 1.25 and 0.9 < drift < 1.1 else "noisy" if spread < 2 else "very noisy"
    return (
        f"reference loop {before.median:.1f} ms before, {after.median:.1f} ms after; "
        f"p95/p5 {spread:.2f}: {word}; load {os.getloadavg()[0]:.1f}"
    )


def _round() -> float:
    began = time.perf_counter()
    digest = hashlib.sha256()
    for _ in range(8):
        digest.update(_BLOCK)
    return (time.perf_counter() - began) * 1000
