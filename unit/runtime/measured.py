"""Metrics that remember."""

from __future__ import annotations

from collections import Counter, defaultdict

from dynvol.runtime.metrics import QueueGauges, Unmeasured


class Measured(Unmeasured):
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.queues: dict[str, QueueGauges] = {}
        self.results: list[str] = []
        self.active: list[int] = []
        self.led: list[bool] = []

    def register(self, name: str, gauges: QueueGauges) -> None:
        self.queues[name] = gauges

    def added(self, name: str) -> None:
        self.counts["added"] += 1

    def retried(self, name: str) -> None:
        self.counts["retried"] += 1

    def waited(self, name: str, seconds: float) -> None:
        self.seconds["waited"].append(seconds)

    def worked(self, name: str, seconds: float) -> None:
        self.seconds["worked"].append(seconds)

    def reconciled(self, name: str, *, result: str, seconds: float) -> None:
        self.results.append(result)
        self.seconds["reconciled"].append(seconds)

    def workers(self, name: str, *, active: int, limit: int) -> None:
        self.active.append(active)

    def event(self, name: str, kind: str) -> None:
        self.counts[kind] += 1

    def failed(self, name: str, reason: str) -> None:
        self.counts[reason] += 1

    def leading(self, name: str, *, yes: bool) -> None:
        self.led.append(yes)
