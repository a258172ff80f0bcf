"""What the runtime tells about itself, under client-go's and controller-runtime's names; somebody else draws the graphs.

What only ever grows is pushed as it happens. What is a state (depth, unfinished work) is read when it is asked for, by whoever
collects, so that no timer runs to keep a gauge fresh.
"""

from __future__ import annotations

from typing import Protocol


class QueueGauges(Protocol):
    """What can be read off a queue at any time."""

    @property
    def depth(self) -> int:
        """`workqueue_depth`: keys that a worker has yet to take up, those that wait for their own run to end among them."""

    @property
    def unfinished_work_seconds(self) -> float:
        """`workqueue_unfinished_work_seconds`: how long all keys now in work have been so, added up."""

    @property
    def longest_running_processor_seconds(self) -> float:
        """`workqueue_longest_running_processor_seconds`."""


class QueueMetrics(Protocol):
    """Counts for all queues; `name` is the label."""

    def register(self, name: str, gauges: QueueGauges) -> None:
        """A queue came to life. Read `gauges` when the metrics are collected."""

    def added(self, name: str) -> None:
        """`workqueue_adds_total`: a key that was not yet dirty was added."""

    def retried(self, name: str) -> None:
        """`workqueue_retries_total`: a key was added with a delay."""

    def waited(self, name: str, seconds: float) -> None:
        """`workqueue_queue_duration_seconds`: from the add to the worker."""

    def worked(self, name: str, seconds: float) -> None:
        """`workqueue_work_duration_seconds`: from the worker to done."""


class ReconcileMetrics(Protocol):
    """Counts for all controllers; `name` is the label `controller`."""

    def reconciled(self, name: str, *, result: str, seconds: float) -> None:
        """`controller_runtime_reconcile_total`, `…_time_seconds`; `result`: `success`, `requeue_after`, `error` or `terminal`."""

    def workers(self, name: str, *, active: int, limit: int) -> None:
        """`controller_runtime_active_workers` and `controller_runtime_max_concurrent_reconciles`."""


class InformerMetrics(Protocol):
    """Counts for all informers; `name` is the label."""

    def event(self, name: str, kind: str) -> None:
        """An event came in: `added`, `modified`, `deleted`, `bookmark` or `unreadable`."""

    def listed(self, name: str, *, objects: int) -> None:
        """A list is complete."""

    def failed(self, name: str, reason: str) -> None:
        """A list or a watch failed; `reason` is the error's class."""


class LeaderMetrics(Protocol):
    def leading(self, name: str, *, yes: bool) -> None:
        """`leader_election_master_status`."""


class Unmeasured:
    """Implements all of the above by doing nothing."""

    def register(self, name: str, gauges: QueueGauges) -> None: ...

    def added(self, name: str) -> None: ...

    def retried(self, name: str) -> None: ...

    def waited(self, name: str, seconds: float) -> None: ...

    def worked(self, name: str, seconds: float) -> None: ...

    def reconciled(self, name: str, *, result: str, seconds: float) -> None: ...

    def workers(self, name: str, *, active: int, limit: int) -> None: ...

    def event(self, name: str, kind: str) -> None: ...

    def listed(self, name: str, *, objects: int) -> None: ...

    def failed(self, name: str, reason: str) -> None: ...

    def leading(self, name: str, *, yes: bool) -> None: ...


UNMEASURED = Unmeasured()
