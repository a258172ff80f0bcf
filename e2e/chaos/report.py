"""What a run found, and the one table that tells it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Of one kind of fault. `recoveries` in seconds, of those that have recovered and had touched something that stayed."""

    struck: int = 0
    missed: int = 0
    """There was nothing to strike."""
    recoveries: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Findings:
    """Everything that is not as it should be, in sentences, by the word that the table has for it. Each must be empty."""

    problems: dict[str, list[str]] = field(default_factory=dict)

    def add(self, word: str, sentences: Iterable[str]) -> None:
        """Also where there are none: the table shows that it was looked at. What is found again is no more than it was."""
        known = self.problems.setdefault(word, [])
        known += [sentence for sentence in dict.fromkeys(sentences) if sentence not in known]

    def merge(self, others: Findings) -> None:
        for word, sentences in others.problems.items():
            self.add(word, sentences)

    def told(self) -> list[str]:
        """A line for each, no more than twenty of a word."""
        lines = []
        for word, sentences in self.problems.items():
            lines += [f"    {word}: {sentence}" for sentence in sentences[:20]]
            lines += [f"    {word}: … and {len(sentences) - 20} more"] if len(sentences) > 20 else []
        return lines

    @property
    def clean(self) -> bool:
        return not any(self.problems.values())


MEASURED = (
    "Seconds of recovery: from when a fault was healed (or struck, where nothing is healed) until each mount that it touched has",
    "taken a file, begun and closed since, its claim has said Ready, and node processes that it touched have said so too. Where a",
    "mount pod was taken away, its mounts count from when there is another. Overlapping faults are in it. Each program writes a",
    "file a second, and is looked at twice a second. Not measured: what was gone from the cluster before it could recover.",
)


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(tallies: Mapping[str, Tally]) -> list[str]:
    head = f"{'fault':28} {'struck':>6} {'missed':>6} {'measured':>8} {'p50 s':>7} {'p95 s':>7} {'max s':>7}"
    return [head, "-" * len(head), *(_row(name, tally) for name, tally in tallies.items()), _row("all", _sum(tallies.values()))]


def _sum(tallies: Iterable[Tally]) -> Tally:
    whole = Tally()
    for tally in tallies:
        whole.struck += tally.struck
        whole.missed += tally.missed
        whole.recoveries += tally.recoveries
    return whole


def _row(name: str, tally: Tally) -> str:
    figures = [f"{percentile(tally.recoveries, share):7.1f}" if tally.recoveries else f"{'-':>7}" for share in (0.5, 0.95, 1.0)]
    return f"{name:28} {tally.struck:6} {tally.missed:6} {len(tally.recoveries):8} {' '.join(figures)}"


def zeros(findings: Findings) -> list[str]:
    """One line for each thing that must be none, with how many there were."""
    return [f"{word:40} {len(sentences)}" for word, sentences in findings.problems.items()]
