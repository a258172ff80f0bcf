"""What Prometheus scrapes.

The names are those that existing dashboards and alerts know: client-go's, controller-runtime's, the CSI sidecars'. What is
dynvol's own begins with `dynvol_`. Labels are bounded by construction: names of queues, methods and codes, never of pods, claims or
nodes, so that the scrape of a node with a thousand mounts is as short as that of one with none. What is a state is read when it is
scraped; no timer keeps it fresh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .. import __version__
from ..api import names
from ..api.mounts import Phase
from ..runtime.metrics import QueueGauges

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_QUEUE_BUCKETS: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_RECONCILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_CALL_BUCKETS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
_CSI_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0)
_MOUNT_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
LOOP_LAG_PERIOD: Final = 1.0


class Metrics:
    """One process's metrics. Its members implement what runtime, kube, csi and webhook each want to be measured with."""

    def __init__(self, *, process: str) -> None:
        """`process` is the command's name: node, webhook."""
        registry = self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Gauge("dynvol_build_info", "1; what runs.", ["version", "process"], registry=registry).labels(__version__, process).set(1)
        self.queues: Final = _Queues(registry)
        self.controllers: Final = _Controllers(registry)
        self.informers: Final = _Informers(registry)
        self.requests: Final = _Requests(registry)
        self.mounts: Final = _Mounts(registry)
        self.admission: Final = _Admission(registry)
        self.csi: Final = _Csi(registry)
        self._leading = Gauge("leader_election_master_status", "Whether this process leads.", ["name"], registry=registry)
        self._lag = Gauge("dynvol_event_loop_lag_seconds", "How late the event loop came to its last tick.", registry=registry)
        self._tasks = Gauge("dynvol_event_loop_tasks", "Tasks of the event loop at its last tick.", registry=registry)
        self._ready = Gauge("dynvol_ready", "Whether the last readiness probe was answered with yes.", registry=registry)

    def leading(self, name: str, *, yes: bool) -> None:
        """Implements `dynvol.runtime.metrics.LeaderMetrics`."""
        self._leading.labels(name).set(yes)

    def ready(self, *, yes: bool) -> None:
        """A readiness probe was answered. Kubelet asks every few seconds; a scrape does not ask, since checks may be slow."""
        self._ready.set(yes)

    def certificate(self, ends: Callable[[], float]) -> None:
        """How to read, at a scrape, when the certificate that is served ends: seconds since the epoch, 0 while there is none."""
        name = "dynvol_certificate_expiry_timestamp_seconds"
        Gauge(name, "When the served certificate ends; 0: there is none yet.", registry=self._registry).set_function(ends)

    def render(self) -> bytes:
        """The exposition text, of type `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    async def watch_loop(self) -> None:
        """Keeps the event loop's figures up to date, for ever: a loop that lags is one that something blocks, and tasks that
        become more and more are a leak."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOP_LAG_PERIOD
            await asyncio.sleep(LOOP_LAG_PERIOD)
            self._lag.set(max(0.0, loop.time() - due))
            self._tasks.set(len(asyncio.all_tasks()))


class _Queues:
    """Implements `dynvol.runtime.metrics.QueueMetrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._adds = Counter("workqueue_adds", "Keys that were added.", ["name"], registry=registry)
        self._retries = Counter("workqueue_retries", "Keys that were added with a delay.", ["name"], registry=registry)
        self._waited = _histogram(
            registry, "workqueue_queue_duration_seconds", "From the add to the worker.", ["name"], _QUEUE_BUCKETS
        )
        self._worked = _histogram(registry, "workqueue_work_duration_seconds", "From the worker to done.", ["name"], _QUEUE_BUCKETS)
        self._gauges: dict[str, QueueGauges] = {}
        registry.register(_QueueStates(self._gauges))

    def register(self, name: str, gauges: QueueGauges) -> None:
        self._gauges[name] = gauges
        for counter in (self._adds, self._retries):
            counter.labels(name)

    def added(self, name: str) -> None:
        self._adds.labels(name).inc()

    def retried(self, name: str) -> None:
        self._retries.labels(name).inc()

    def waited(self, name: str, seconds: float) -> None:
        self._waited.labels(name).observe(seconds)

    def worked(self, name: str, seconds: float) -> None:
        self._worked.labels(name).observe(seconds)


class _QueueStates(Collector):
    """Reads what queues are like at the moment of the scrape."""

    def __init__(self, gauges: Mapping[str, QueueGauges]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("workqueue_depth", "Keys that wait for a worker.", labels=["name"])
        unfinished = GaugeMetricFamily("workqueue_unfinished_work_seconds", "Time in work of all keys in work.", labels=["name"])
        longest = GaugeMetricFamily("workqueue_longest_running_processor_seconds", "Of the slowest of them.", labels=["name"])
        for name, gauges in self._gauges.items():
            depth.add_metric([name], gauges.depth)
            unfinished.add_metric([name], gauges.unfinished_work_seconds)
            longest.add_metric([name], gauges.longest_running_processor_seconds)
        yield from (depth, unfinished, longest)


class _Controllers:
    """Implements `dynvol.runtime.metrics.ReconcileMetrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter("controller_runtime_reconcile", "Reconciliations.", ["controller", "result"], registry=registry)
        self._errors = Counter(
            "controller_runtime_reconcile_errors", "Reconciliations that failed.", ["controller"], registry=registry
        )
        self._terminal = Counter(
            "controller_runtime_terminal_reconcile_errors",
            "Reconciliations that failed for good.",
            ["controller"],
            registry=registry,
        )
        self._time = _histogram(
            registry, "controller_runtime_reconcile_time_seconds", "Length of a reconciliation.", ["controller"], _RECONCILE_BUCKETS
        )
        self._active = Gauge("controller_runtime_active_workers", "Workers at work.", ["controller"], registry=registry)
        self._limit = Gauge("controller_runtime_max_concurrent_reconciles", "Workers.", ["controller"], registry=registry)

    def reconciled(self, name: str, *, result: str, seconds: float) -> None:
        failed = result in ("error", "terminal")
        self._total.labels(name, "error" if failed else result).inc()
        self._time.labels(name).observe(seconds)
        if failed:
            self._errors.labels(name).inc()
        if result == "terminal":
            self._terminal.labels(name).inc()

    def workers(self, name: str, *, active: int, limit: int) -> None:
        self._active.labels(name).set(active)
        self._limit.labels(name).set(limit)
        for counter in (self._errors, self._terminal):
            # There from the start, at 0: `increase` cannot see a counter's first error if that is also its first sample.
            counter.labels(name)


class _Informers:
    """Implements `dynvol.runtime.metrics.InformerMetrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter("dynvol_informer_events", "Watch events that came in.", ["name", "kind"], registry=registry)
        self._lists = Counter("dynvol_informer_lists", "Lists that were completed.", ["name"], registry=registry)
        self._objects = Gauge("dynvol_informer_listed_objects", "Objects in the last list.", ["name"], registry=registry)
        self._failures = Counter(
            "dynvol_informer_failures", "Lists and watches that failed.", ["name", "reason"], registry=registry
        )

    def event(self, name: str, kind: str) -> None:
        self._events.labels(name, kind).inc()

    def listed(self, name: str, *, objects: int) -> None:
        self._lists.labels(name).inc()
        self._objects.labels(name).set(objects)

    def failed(self, name: str, reason: str) -> None:
        self._failures.labels(name, reason).inc()


class _Requests:
    """Implements `dynvol.kube.connection.RequestMetrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter("rest_client_requests", "Requests to the API server.", ["code", "method"], registry=registry)
        self._time = _histogram(
            registry,
            "rest_client_request_duration_seconds",
            "From the request to the answer's first byte.",
            ["method"],
            _CALL_BUCKETS,
        )

    def observe(self, *, method: str, code: str, seconds: float) -> None:
        verb = method if method in _METHODS else "other"
        self._total.labels(code, verb).inc()
        self._time.labels(verb).observe(seconds)


class _Csi:
    """Implements `dynvol.rpc.calls.CallObserver`: call it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._time = _histogram(
            registry,
            "csi_operations_seconds",
            "CSI calls of kubelet.",
            ["driver_name", "method_name", "grpc_status_code"],
            _CSI_BUCKETS,
        )

    def __call__(self, method: str, code: str, seconds: float, /) -> None:
        self._time.labels(names.DRIVER, method, _go_code(code)).observe(seconds)


def _go_code(code: str) -> str:
    """`INVALID_ARGUMENT` as the sidecars, which are in Go, write it."""
    return {"OK": "OK", "CANCELLED": "Canceled"}.get(code) or code.title().replace("_", "")


class _Admission:
    """Implements `dynvol.webhook.server.AdmissionMetrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._time = _histogram(
            registry, "dynvol_admission_duration_seconds", "Admission reviews.", ["path", "outcome"], _CSI_BUCKETS
        )

    def reviewed(self, path: str, *, outcome: str, seconds: float) -> None:
        self._time.labels(path, outcome).observe(seconds)


class _Mounts:
    """What dynvol is there for. Fed by the controllers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = _histogram(
            registry,
            "dynvol_mount_duration_seconds",
            "From when a mount was wanted in a pod to when it was there.",
            [],
            _MOUNT_BUCKETS,
        )
        self._restarts = Counter("dynvol_client_restarts", "FUSE clients that were started again.", registry=registry)
        self._mounts: Callable[[], Mapping[str, int]] = dict
        self._pods: Callable[[], int] = int
        registry.register(_MountStates(self))

    def states(self, *, mounts: Callable[[], Mapping[str, int]], mount_pods: Callable[[], int]) -> None:
        """How to read, at a scrape, the number of mounts of this node by phase, and of its mount pods."""
        self._mounts, self._pods = mounts, mount_pods

    def mounted(self, *, seconds: float) -> None:
        self._duration.observe(seconds)

    def client_restarted(self, times: int = 1) -> None:
        self._restarts.inc(times)

    def read(self) -> tuple[Mapping[str, int], int]:
        return self._mounts(), self._pods()


class _MountStates(Collector):
    def __init__(self, mounts: _Mounts) -> None:
        self._source = mounts

    def collect(self) -> Iterator[Metric]:
        by_phase, pods = self._source.read()
        family = GaugeMetricFamily("dynvol_mounts", "Mounts that are wanted on this node, by phase.", labels=["phase"])
        for phase in Phase:
            family.add_metric([phase.value], by_phase.get(phase, 0))
        yield family
        yield GaugeMetricFamily("dynvol_mount_pods", "Mount pods of this node.", value=pods)


def _histogram(registry: CollectorRegistry, name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=registry)
