"""Draws figures: the distribution of each, beside what it is held against."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib

from .figure import Figure, Series

matplotlib.use("agg")


def draw(figures: Iterable[Figure], folder: Path) -> None:
    """One PNG for each figure that has more than a few samples."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        if len(figure.measured.samples) >= 3:
            _draw(figure, folder / f"{re.sub(r'[^a-z0-9]+', '-', figure.name.lower()).strip('-')}.png")


def _draw(figure: Figure, path: Path) -> None:
    """Each sample's share of all that are no larger: where most of them are, and how long the tail is."""
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for series in filter(None, (figure.measured, figure.against)):
        axes.step(*_shares(series), where="post", label=f"{series.name} (n={len(series.samples)}, p50 {series.median:.3g})")
    axes.set(xlabel=figure.unit, ylabel="share of samples", title=figure.name, ylim=(0, 1.02), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", title=f"to reach: {figure.goal}" if figure.goal else None)
    fig.savefig(path, dpi=120)
    pyplot.close(fig)


def _shares(series: Series) -> tuple[list[float], list[float]]:
    ordered = sorted(series.samples)
    return ordered, [(index + 1) / len(ordered) for index in range(len(ordered))]
