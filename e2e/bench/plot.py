"""Draws figures: the distribution of each, beside what it is held against, or how it grows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib

from .figure import Figure, Growth, Series

matplotlib.use("agg")


def draw(figures: Iterable[Figure], folder: Path) -> None:
    """One PNG for each figure that was measured at several sizes, or has more than a few samples."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', figure.name.lower()).strip('-')}.png"
        if figure.growth is not None:
            _draw_growth(figure, figure.growth, path)
        elif len(figure.measured.samples) >= 3:
            _draw(figure, path)


def _draw_growth(figure: Figure, growth: Growth, path: Path) -> None:
    """On logarithmic axes, where a power is a straight line; the whiskers reach from the 5th to the 95th percentile."""
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    medians = [series.median for series in growth.sizes.values()]
    below = [series.median - series.percentile(0.05) for series in growth.sizes.values()]
    above = [series.percentile(0.95) - series.median for series in growth.sizes.values()]
    axes.errorbar(list(growth.sizes), medians, yerr=[below, above], marker="o", capsize=3, label=f"power {growth.exponent:.2f}")
    scale = "log" if min(medians) > 0 else "linear"
    axes.set(xlabel=growth.over, ylabel=figure.unit, title=figure.name, xscale="log", yscale=scale)
    axes.grid(alpha=0.3, which="both")
    axes.legend(title=f"to reach: {figure.goal}" if figure.goal else None)
    fig.savefig(path, dpi=120)
    pyplot.close(fig)


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
