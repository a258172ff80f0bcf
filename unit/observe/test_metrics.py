from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from dynvol.kube.connection import RequestMetrics
from dynvol.observe import metrics as observe_metrics
from dynvol.observe.health import Health
from dynvol.observe.metrics import CONTENT_TYPE, Metrics
from dynvol.observe.server import serve
from dynvol.rpc.calls import CallObserver
from dynvol.runtime.metrics import InformerMetrics, LeaderMetrics, QueueMetrics, ReconcileMetrics
from dynvol.webhook.server import AdmissionMetrics


@dataclass
class Queue:
    depth: int = 0
    unfinished_work_seconds: float = 0.0
    longest_running_processor_seconds: float = 0.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(process="node")


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    for family in families(metrics).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


def test_each_member_is_what_its_user_asks_for(metrics: Metrics) -> None:
    queues: QueueMetrics = metrics.queues
    controllers: ReconcileMetrics = metrics.controllers
    informers: InformerMetrics = metrics.informers
    leader: LeaderMetrics = metrics
    requests: RequestMetrics = metrics.requests
    csi: CallObserver = metrics.csi
    admission: AdmissionMetrics = metrics.admission
    assert all((queues, controllers, informers, leader, requests, csi, admission))


def test_a_queue_is_read_when_it_is_scraped(metrics: Metrics) -> None:
    queue = Queue()
    metrics.queues.register("claims", queue)
    assert value(metrics, "workqueue_depth", name="claims") == 0
    queue.depth, queue.unfinished_work_seconds, queue.longest_running_processor_seconds = 3, 4.5, 2.5
    assert value(metrics, "workqueue_depth", name="claims") == 3
    assert value(metrics, "workqueue_unfinished_work_seconds", name="claims") == 4.5
    assert value(metrics, "workqueue_longest_running_processor_seconds", name="claims") == 2.5


def test_a_queue_has_client_gos_names_from_its_start(metrics: Metrics) -> None:
    metrics.queues.register("claims", Queue())
    assert value(metrics, "workqueue_adds_total", name="claims") == 0
    assert value(metrics, "workqueue_retries_total", name="claims") == 0
    metrics.queues.added("claims")
    metrics.queues.retried("claims")
    metrics.queues.waited("claims", 0.01)
    metrics.queues.worked("claims", 0.2)
    assert value(metrics, "workqueue_adds_total", name="claims") == 1
    assert value(metrics, "workqueue_retries_total", name="claims") == 1
    assert value(metrics, "workqueue_queue_duration_seconds_sum", name="claims") == 0.01
    assert value(metrics, "workqueue_work_duration_seconds_count", name="claims") == 1


def test_results_of_reconciliations_are_counted_as_controller_runtime_does(metrics: Metrics) -> None:
    for result in ("success", "success", "requeue_after", "error", "terminal"):
        metrics.controllers.reconciled("claims", result=result, seconds=0.1)
    metrics.controllers.workers("claims", active=1, limit=2)
    total = "controller_runtime_reconcile_total"
    assert value(metrics, total, controller="claims", result="success") == 2
    assert value(metrics, total, controller="claims", result="requeue_after") == 1
    assert value(metrics, total, controller="claims", result="error") == 2
    assert value(metrics, "controller_runtime_reconcile_errors_total", controller="claims") == 2
    assert value(metrics, "controller_runtime_terminal_reconcile_errors_total", controller="claims") == 1
    assert value(metrics, "controller_runtime_reconcile_time_seconds_count", controller="claims") == 5
    assert value(metrics, "controller_runtime_max_concurrent_reconciles", controller="claims") == 2


def test_a_controllers_errors_are_there_before_the_first(metrics: Metrics) -> None:
    metrics.controllers.workers("claims", active=0, limit=2)
    assert value(metrics, "controller_runtime_reconcile_errors_total", controller="claims") == 0
    assert value(metrics, "controller_runtime_terminal_reconcile_errors_total", controller="claims") == 0


def test_requests_are_counted_by_code_and_method_whatever_the_method(metrics: Metrics) -> None:
    metrics.requests.observe(method="GET", code="200", seconds=0.1)
    metrics.requests.observe(method="BREW", code="<error>", seconds=0.1)
    assert value(metrics, "rest_client_requests_total", code="200", method="GET") == 1
    assert value(metrics, "rest_client_requests_total", code="<error>", method="other") == 1


def test_csi_calls_are_counted_as_the_sidecars_do(metrics: Metrics) -> None:
    metrics.csi("/csi.v1.Node/NodePublishVolume", "INVALID_ARGUMENT", 0.01)
    metrics.csi("/csi.v1.Node/NodePublishVolume", "OK", 0.01)
    for code in ("InvalidArgument", "OK"):
        labels = {"driver_name": "dynamicvolume.csi.cloudnative101.net", "method_name": "/csi.v1.Node/NodePublishVolume"}
        assert value(metrics, "csi_operations_seconds_count", grpc_status_code=code, **labels) == 1


def test_mounts_are_counted_by_phase_and_every_phase_is_there(metrics: Metrics) -> None:
    assert value(metrics, "dynvol_mounts", phase="Mounted") == 0
    metrics.mounts.states(mounts=lambda: {"Mounted": 4, "Failed": 1}, mount_pods=lambda: 2)
    metrics.mounts.mounted(seconds=0.8)
    metrics.mounts.client_restarted()
    assert value(metrics, "dynvol_mounts", phase="Mounted") == 4
    assert value(metrics, "dynvol_mounts", phase="Failed") == 1
    assert value(metrics, "dynvol_mounts", phase="Pending") == 0
    assert value(metrics, "dynvol_mount_pods") == 2
    assert value(metrics, "dynvol_mount_duration_seconds_count") == 1
    assert value(metrics, "dynvol_client_restarts_total") == 1


def test_leadership_reviews_and_lists_are_there(metrics: Metrics) -> None:
    metrics.leading("dynvol-leader", yes=True)
    metrics.admission.reviewed("/mutate-pods", outcome="patched", seconds=0.002)
    metrics.informers.event("pods", "added")
    metrics.informers.listed("pods", objects=7)
    metrics.informers.failed("pods", "Expired")
    assert value(metrics, "leader_election_master_status", name="dynvol-leader") == 1
    assert value(metrics, "dynvol_admission_duration_seconds_count", path="/mutate-pods", outcome="patched") == 1
    assert value(metrics, "dynvol_informer_listed_objects", name="pods") == 7
    metrics.leading("dynvol-leader", yes=False)
    assert value(metrics, "leader_election_master_status", name="dynvol-leader") == 0


def test_a_certificates_end_is_read_when_it_is_scraped(metrics: Metrics) -> None:
    ends = [0.0]
    assert value(metrics, "dynvol_certificate_expiry_timestamp_seconds") is None
    metrics.certificate(lambda: ends[0])
    assert value(metrics, "dynvol_certificate_expiry_timestamp_seconds") == 0
    ends[0] = 1.8e9
    assert value(metrics, "dynvol_certificate_expiry_timestamp_seconds") == 1.8e9


def test_the_process_and_what_it_runs_are_described(metrics: Metrics) -> None:
    found = families(metrics)
    assert {"process_resident_memory_bytes", "python_gc_objects_collected", "python_info"} <= set(found)
    [build] = found["dynvol_build_info"].samples
    assert build.labels["process"] == "node"
    assert build.labels["version"]


def test_every_family_has_a_help_text(metrics: Metrics) -> None:
    assert [name for name, family in families(metrics).items() if not family.documentation] == []


async def test_a_loop_that_is_held_up_shows(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_metrics, "LOOP_LAG_PERIOD", 0.01)
    watching = asyncio.create_task(metrics.watch_loop())
    await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251  # this is the point
    for _ in range(3):
        await asyncio.sleep(0)
    lag = value(metrics, "dynvol_event_loop_lag_seconds")
    assert lag is not None
    assert 0.05 < lag < 60
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_the_last_readiness_probe_shows(metrics: Metrics) -> None:
    health = Health()
    async with serve("127.0.0.1", 0, health=health, metrics=metrics) as port, aiohttp.ClientSession() as session:
        for drain, ready in ((False, 1), (True, 0)):
            if drain:
                health.drain()
            async with session.get(f"http://127.0.0.1:{port}/readyz"):
                assert value(metrics, "dynvol_ready") == ready


async def test_prometheus_reads_it_over_http(metrics: Metrics) -> None:
    async with (
        serve("127.0.0.1", 0, health=Health(), metrics=metrics) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        text = await answer.text()
    assert "dynvol_build_info" in {family.name for family in text_string_to_metric_families(text)}
