"""What happens when, drawn from the seed before anything begins: the same seed gives the same schedule. Pure.

Kinds are dealt like cards, so that each comes about as often as any other. A stroke does not name its target, which may not exist
by then: it carries a number that picks one of those that do. Strokes of one lane, a part of the world that can be broken in one way
at a time, never overlap; those of different lanes do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LONG = 600.0
"""Seconds of a run from which on holds are drawn from their whole range; shorter runs have shorter ones."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`hold` is the range, in seconds, of how long it lasts until it is healed; nothing for what needs no healing."""

    name: str
    lane: str
    hold: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Stroke:
    """`at` and `hold` in seconds, `at` since the beginning; `pick` in [0, 1)."""

    at: float
    kind: str
    hold: float
    pick: float

    def choose(self, count: int) -> int:
        """The index of the target among `count`."""
        return int(self.pick * count)


def draw(kinds: Sequence[Kind], *, seed: str, seconds: float, every: float) -> tuple[Stroke, ...]:
    """Strokes in order of time, one each `every` seconds on average. All have been healed by `seconds`."""
    chance = random.Random(seed)
    cards = _dealt(kinds, chance)
    free = dict.fromkeys((kind.lane for kind in kinds), 0.0)
    strokes, moment = [], 0.0
    while True:
        moment += chance.uniform(0.3, 1.7) * every
        kind, length, pick = next(cards), chance.random(), chance.random()
        at = max(moment, free[kind.lane])
        hold = min(_hold(kind, length, seconds), max(0.0, seconds - at))
        if at < seconds:
            strokes.append(Stroke(round(at, 2), kind.name, round(hold, 2), pick))
            free[kind.lane] = at + hold
        if moment >= seconds:
            return tuple(sorted(strokes, key=lambda stroke: stroke.at))


def _dealt(kinds: Sequence[Kind], chance: random.Random) -> Iterator[Kind]:
    while True:
        yield from chance.sample(kinds, len(kinds))


def _hold(kind: Kind, length: float, seconds: float) -> float:
    shortest, longest = kind.hold
    return shortest + (longest - shortest) * length * min(1.0, seconds / LONG)
