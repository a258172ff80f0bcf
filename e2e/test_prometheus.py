"""A real Prometheus watches dynvol while mounts come, break and fail: its answers are true, and alerts and dashboard show them.

It scrapes the pods' own ports, so this needs a cluster whose pods the suite can reach; elsewhere it is skipped. What rules do in
each kind of trouble is promtool's to say, in unit/config.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.conftest import World
from e2e.grounds import onnode
from e2e.kubectl import Kubectl, eventually
from e2e.prometheus import Prometheus, alerts, dashboard_queries, metrics_in, prometheus, rule_file, scrape_job

FAILED: Final = "DynvolMountsFailed"
SELECTOR: Final = "app.kubernetes.io/name=dynvol,app.kubernetes.io/component in (node,webhook)"
ONLY_AFTER_FAILURES: Final = {"dynvol_informer_failures_total"}
"""Metrics that a healthy process does not have: their labels are not known before something fails."""


@pytest.fixture
def watching(world: World, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus with the project's own scrape job and rules, which calls a mount failed after a second, not 15 minutes."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on this machine; hack/test installs it")
    pods = system(world).list("pods", f"--selector={SELECTOR}")
    job = scrape_job(pods)
    if not onnode.fetch(f"http://{job['static_configs'][0]['targets'][0]}/metrics")[0]:
        pytest.skip("this machine does not reach the cluster's pods, and Prometheus runs here")
    with prometheus(tmp_path, scrape=job, rules=impatient(rule_file(), FAILED)) as server:
        eventually(lambda: {t["health"] for t in server.targets()} == {"up"}, within=20, what="all targets were scraped")
        yield server


def test_prometheus_sees_what_happens(world: World, watching: Prometheus) -> None:
    """One story, since each chapter takes Prometheus a few seconds; the steps have names below."""
    every_pod_is_a_target(world, watching)
    before = Counted.of(watching)
    starting_pods_are_counted(world, watching)
    took = mounts_two_buckets(world)
    counts_are_true(watching, before, mounted=4, slowest=took)
    a_killed_client_is_counted(world, watching, before)
    a_mount_that_fails_raises_an_alert(world, watching)
    every_rule_evaluates_and_knows_its_metrics(watching)
    no_other_alert_is_near(watching)
    every_panel_shows_something(world, watching)


def every_pod_is_a_target(world: World, watching: Prometheus) -> None:
    """With the labels by which rules and dashboard go."""
    pods = {(p["metadata"]["name"], p["spec"]["nodeName"]) for p in system(world).list("pods", f"--selector={SELECTOR}")}
    up = watching.ask('up{job="dynvol", namespace="dynvol-system", component=~"node|webhook"}')
    assert {(s.labels["pod"], s.labels["node"]) for s in up} == pods
    assert {s.value for s in up} == {1}


@dataclass(frozen=True, slots=True)
class Counted:
    """What only ever grows, over all nodes."""

    mounts: float
    restarts: float

    @classmethod
    def of(cls, watching: Prometheus) -> Counted:
        return cls(
            mounts=watching.number('sum(dynvol_mount_duration_seconds_count{job="dynvol"})'),
            restarts=watching.number('sum(dynvol_client_restarts_total{job="dynvol"})'),
        )


def starting_pods_are_counted(world: World, watching: Prometheus) -> None:
    """Two, one after the other: of a counter that begins with what it counts, Prometheus does not see the first rise."""
    calls = 'csi_operations_seconds_count{job="dynvol", method_name=~".*/NodePublishVolume", grpc_status_code="OK"}'
    published = f"sum({calls}) or vector(0)"
    before = watching.number(published)
    for pods in (1, 2):
        world.deploy(replicas=pods)
        holds(lambda pods=pods: watching.number(published) == before + pods, f"{pods} pods")  # type: ignore[misc]


def mounts_two_buckets(world: World) -> float:
    """In both pods. How long it took until all were there, in seconds."""
    began = time.monotonic()
    for name in ("one", "two"):
        world.kubectl.apply(world.claim(name, world.bucket(name, readme=name), mountpoint=f"/{name}"))
    for name in ("one", "two"):
        world.ready(name)
    return time.monotonic() - began


def counts_are_true(watching: Prometheus, before: Counted, *, mounted: int, slowest: float) -> None:
    holds(lambda: by_phase(watching) == {"Mounted": mounted}, "mounts by phase")
    holds(lambda: Counted.of(watching).mounts == before.mounts + mounted, "mounts made")
    # Of all time that this server knows: what other tests mounted is in its first scrape, which `increase` leaves out.
    buckets = 'dynvol_mount_duration_seconds_bucket{job="dynvol"}'
    longest = watching.number(f"histogram_quantile(1, sum by (le) (increase({buckets}[5m])))")
    bounds = sorted(float(s.labels["le"]) for s in watching.ask(f"count by (le) ({buckets})"))
    assert 0 < longest <= next(bound for bound in bounds if bound >= slowest)


def a_killed_client_is_counted(world: World, watching: Prometheus, before: Counted) -> None:
    killed = world.ground.kill("s3fs", pod=world.mount_pods()[0])
    assert killed == 2
    holds(lambda: Counted.of(watching).restarts == before.restarts + killed, "restarts of clients")
    holds(lambda: by_phase(watching) == {"Mounted": 4}, "all are back")
    assert {world.read(pod, "/one/readme") for pod in world.pods()} == {"one"}


def a_mount_that_fails_raises_an_alert(world: World, watching: Prometheus) -> None:
    assert not watching.firing(FAILED)
    world.kubectl.apply(world.claim("bad", f"{world.namespace}-which-is-not-there", mountpoint="/bad"))
    holds(lambda: by_phase(watching) == {"Mounted": 4, "Failed": 2}, "the failed ones beside the others")
    (node,) = {s.labels["node"] for s in watching.ask('dynvol_mounts{job="dynvol", phase="Failed"} > 0')}
    holds(lambda: told(watching) == [f"Mounts that fail on {node}: 2"], "the alert")
    (alert,) = watching.firing(FAILED)
    assert alert["labels"] == {"alertname": FAILED, "severity": "warning", "node": node}


def told(watching: Prometheus) -> list[str]:
    return [alert["annotations"]["summary"] for alert in watching.firing(FAILED)]


def every_rule_evaluates_and_knows_its_metrics(watching: Prometheus) -> None:
    rules = {rule["name"]: rule for rule in watching.rules()}
    assert rules.keys() == alerts().keys()
    assert {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"} == {}
    named = {metric for rule in alerts().values() for metric in metrics_in(rule["expr"])}
    assert named - watching.metric_names() <= ONLY_AFTER_FAILURES


def no_other_alert_is_near(watching: Prometheus) -> None:
    """Not even one that would have to last longer: mounting, ending clients and a claim in error are a cluster's daily life."""
    holds(lambda: {alert["labels"]["alertname"] for alert in watching.active()} == {FAILED}, "the one alert")


def every_panel_shows_something(world: World, watching: Prometheus) -> None:
    """There is a review before each look, until one has reached a webhook whose counter Prometheus had seen before."""
    queries = dashboard_queries()
    reviews = itertools.count()

    def empty() -> set[str]:
        world.kubectl.apply(world.claim("bad", f"{world.namespace}-nor-there-{next(reviews)}", mountpoint="/bad"))
        return {q.panel for q in queries if not shown(watching, q.expression)}

    expected = {q.panel for q in queries if q.only_in_trouble}
    holds(lambda: empty() <= expected, "all panels show something")


def shown(watching: Prometheus, expression: str) -> bool:
    """Whether there is a number; a quantile of nothing is none."""
    return any(sample.value == sample.value for sample in watching.ask(expression))


def by_phase(watching: Prometheus) -> dict[str, float]:
    return {s.labels["phase"]: s.value for s in watching.ask('sum by (phase) (dynvol_mounts{job="dynvol"}) > 0')}


def holds(look: Callable[[], Any], what: str) -> Any:
    return eventually(look, within=20, what=what)


def impatient(rules: dict[str, Any], alert: str) -> dict[str, Any]:
    """The rules with one alert that fires after a second."""
    groups = [
        {**group, "rules": [{**rule, "for": "1s"} if rule["alert"] == alert else rule for rule in group["rules"]]}
        for group in rules["groups"]
    ]
    return {"groups": groups}


def system(world: World) -> Kubectl:
    return world.kubectl.within("dynvol-system")
