"""Metrics, health, and what the node process says of itself when the API server is away."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from e2e.conftest import World


def fetch(world: World, path: str) -> str:
    """From a node process' port, asked in its own pod: what else is in the cluster need not hold a program that can ask."""
    system = world.kubectl.within("dynvol-system")
    pod = system.list("pods", "--selector=app.kubernetes.io/component=node")[0]
    url = f"http://{pod['status']['podIP']}:9810{path}"
    program = f"import urllib.request as u; print(u.urlopen('{url}').read().decode())"
    done = system.exec(pod["metadata"]["name"], "python3", "-c", program)
    assert done.code == 0, done.said
    return done.out


def test_metrics_are_what_prometheus_reads(world: World) -> None:
    world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    families = {f.name: f for f in text_string_to_metric_families(fetch(world, "/metrics"))}
    assert {"workqueue_depth", "workqueue_adds", "csi_operations_seconds", "dynvol_mounts", "dynvol_build_info"} <= families.keys()
    mounted = [s.value for s in families["dynvol_mounts"].samples if s.labels["phase"] == "Mounted"]
    assert mounted and mounted[0] >= 1
    calls = {s.labels["method_name"] for s in families["csi_operations_seconds"].samples}
    assert "/csi.v1.Node/NodePublishVolume" in calls


def test_a_healthy_node_process_is_ready(world: World) -> None:
    assert fetch(world, "/healthz").strip() == "ok"
    assert "api-server ok" in fetch(world, "/readyz?verbose")
