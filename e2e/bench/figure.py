"""A figure: samples of one thing, samples of what it is held against, and whether it reaches what it should.

Ratios are what counts: seconds say more of the machine and of its other guests than of the program.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Series:
    """Samples, in the order in which they were taken."""

    name: str
    samples: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """The smallest sample that is at least as large as `share` (0 to 1) of all."""
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "p50": self.median,
            "p95": self.percentile(0.95),
            "p99": self.percentile(0.99),
            "samples": list(self.samples),
        }


@dataclass(frozen=True, slots=True)
class Growth:
    """One thing at several sizes of another. `over` names what grows."""

    over: str
    sizes: Mapping[float, Series]

    @property
    def exponent(self) -> float:
        """Of the power of the size with which the median grows, fitted by least squares: 0 is flat, 1 linear."""
        points = [(math.log(size), math.log(max(series.median, 1e-9))) for size, series in self.sizes.items()]
        return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else 0.0

    @property
    def described(self) -> dict[str, Any]:
        sizes = {f"{size:g}": series.described for size, series in self.sizes.items()}
        return {"over": self.over, "exponent": self.exponent, "sizes": sizes}


Goal = Callable[["Figure"], bool]


@dataclass(frozen=True, slots=True)
class Figure:
    """`unit` is that of the samples. `goal` is what is to be reached, in words, `reached` says whether it was."""

    name: str
    unit: str
    measured: Series
    against: Series | None = None
    goal: str = ""
    reached: Goal | None = None
    notes: Sequence[str] = field(default=())
    growth: Growth | None = None
    """Where it was measured at several sizes: `measured` is then of the largest, `against` of the smallest."""

    @property
    def verdict(self) -> str:
        if self.reached is None:
            return "—"
        return "yes" if self.reached(self) else "NO"

    @property
    def described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "measured": self.measured.described,
            "against": self.against.described if self.against else None,
            "goal": self.goal,
            "reached": None if self.reached is None else self.reached(self),
            "notes": list(self.notes),
            "growth": self.growth.described if self.growth else None,
        }


def at_most(limit: Callable[[float], float]) -> Goal:
    """The median is at most `limit` of the median that it is held against."""
    return lambda figure: figure.against is not None and figure.measured.median <= limit(figure.against.median)


def table(figures: Iterable[Figure]) -> str:
    """In Markdown, so that it can be kept as it is."""
    rows = [
        "| figure | p50 | p95 | p99 | n | held against | p50 | ratio | to reach | reached |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_row, figures),
    ]
    return "\n".join(rows)


def _row(figure: Figure) -> str:
    own, other = figure.measured, figure.against
    cells = [
        f"{figure.name} ({figure.unit})",
        *(_number(value) for value in (own.median, own.percentile(0.95), own.percentile(0.99))),
        str(len(own.samples)),
        other.name if other else "",
        _number(other.median) if other else "",
        f"{own.median / other.median:.2f}" if other and other.median else "",
        figure.goal + (f" (grows with power {figure.growth.exponent:.2f})" if figure.growth else ""),
        figure.verdict,
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def document(figures: Iterable[Figure], *, surroundings: Mapping[str, Any]) -> str:
    return json.dumps({"surroundings": dict(surroundings), "figures": [f.described for f in figures]}, indent=1)
