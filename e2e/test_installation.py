"""Removed in whatever order, put on nodes that wait for it: the administrator's part. Upgrades are in `test_upgrade`.

These tests take dynvol away from the cluster and put it back.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import manifests
from e2e.busy import await_rounds
from e2e.conftest import World
from e2e.grounds import installation
from e2e.grounds.installation import install
from e2e.kubectl import Kubectl, clean_environment, eventually
from e2e.manifests import GROUP, ROOT

PROJECT = Path(__file__).resolve().parents[1]
STARTUP_TAINT = f"{GROUP}/agent-not-ready"


@pytest.fixture
def installed(world: World) -> Iterator[str]:
    """The manifest that is installed; it is again after the test."""
    kubectl = Kubectl(world.kubectl.kubeconfig)
    manifest = as_installed(kubectl)
    yield manifest
    install(kubectl, manifest)
    # Classes went with their definition; what every test takes down has to be there.
    provide_class(world)


def provide_class(world: World) -> None:
    name = world.provider_class
    provided = manifests.provider_class(name, secret="s3", secret_namespace=world.namespace, mount_memory_limit="128Mi")
    eventually(lambda: world.ground.kubectl.apply(provided))


def as_installed(kubectl: Kubectl) -> str:
    """config/default with the image that the cluster runs, which may be another than the one it names."""
    return installation.manifest(kubectl, image=installation.image(kubectl))


def uninstall(kubectl: Kubectl, *options: str, timeout: int = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "hack" / "uninstall"), f"--kubeconfig={kubectl.kubeconfig}", "--yes"]
    command.append(f"--timeout={timeout}")
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=110, check=False, env=clean_environment())


def remains(kubectl: Kubectl) -> list[str]:
    """What the API server still has of dynvol."""
    kinds = "namespaces,customresourcedefinitions,csidrivers,clusterroles,clusterrolebindings,pods"
    kinds += ",mutatingwebhookconfigurations,validatingwebhookconfigurations"
    kinds += ",validatingadmissionpolicies,validatingadmissionpolicybindings"
    found = kubectl("get", kinds, "--all-namespaces", "-o", "name").split()
    return [name for name in found if "dynvol" in name and "dynvol-suite" not in name or GROUP in name]


def mounted_pod(world: World) -> str:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"
    return pod


def test_uninstalling_changes_nothing_while_pods_carry_volumes(world: World, installed: str) -> None:
    pod = mounted_pod(world)
    done = uninstall(world.ground.kubectl)
    assert done.returncode == 1
    assert f"{world.namespace}/{pod}" in done.stderr
    assert "Nothing was changed" in done.stderr
    assert world.read(pod, "/data/readme") == "hello"


def test_uninstalling_leaves_nothing_but_the_users_pods(world: World, installed: str) -> None:
    pod = mounted_pod(world)
    done = uninstall(world.ground.kubectl, "--leave-pods")
    assert done.returncode == 0, done.stdout + done.stderr
    assert remains(world.ground.kubectl) == []
    assert not world.ground.mounts("/data")
    assert world.misses(pod, "/data/readme")
    assert world.restarts(pod) == 0
    assert world.store.keys(world.namespace) == ["readme"]

    # Once it is back, kubelet can take down what it could not.
    install(world.ground.kubectl, installed)
    world.kubectl.delete("deployment", "web")
    world.settles(lambda: not world.kubectl.list("pods"), what="the pod is gone")


def test_uninstalling_after_the_workloads_leaves_nothing_at_all(world: World, installed: str) -> None:
    mounted_pod(world)
    world.kubectl.delete("deployment", "web")
    world.settles(lambda: not world.kubectl.list("pods"), what="the pod is gone")
    done = uninstall(world.ground.kubectl)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "taking its finalizer off" not in done.stdout
    assert remains(world.ground.kubectl) == []
    assert not world.ground.mounts("xvols/")
    assert world.ground.state_files() == []
    assert uninstall(world.ground.kubectl).returncode == 0, "again, with nothing there"


def test_uninstalling_releases_nothing_that_a_process_may_still_be_writing_back(world: World, installed: str) -> None:
    pod = mounted_pod(world)
    assert world.ground.kill("dynvol node", signal="STOP")
    try:
        held = uninstall(world.ground.kubectl, "--leave-pods", timeout=5)
    finally:
        world.ground.kill("dynvol node", signal="CONT")
    assert held.returncode == 1
    assert f"{world.namespace}/data" in held.stderr
    assert "taking its finalizer off" not in held.stdout
    assert world.mount_pods(), "nothing was removed"

    again = uninstall(world.ground.kubectl, "--leave-pods")
    assert again.returncode == 0, again.stdout + again.stderr
    assert remains(world.ground.kubectl) == []
    assert world.restarts(pod) == 0


WRITER = f"""
until [ -e {ROOT}/data/readme ]; do sleep 0.1; done
while [ ! -e {ROOT}/data/stop ]; do
    round=$((round + 1))
    echo $round > {ROOT}/data/round && echo $round || exec sleep infinity
    sleep 0.1
done 2> /dev/null
"""
"""Writes all the time, and prints each number once it is written and closed. When it cannot write any more it goes on living."""


def removed(kubectl: Kubectl, manifest: str, *, wait: bool = True, timeout: float = 150.0) -> str:
    """`kubectl delete`, which returns when all is gone."""
    return kubectl("delete", "-f", "-", f"--wait={str(wait).lower()}", stdin=manifest, timeout=timeout)


def test_deleting_all_of_it_at_once_flushes_unmounts_and_leaves_nothing_hanging(world: World, installed: str) -> None:
    kubectl = world.ground.kubectl
    (pod,) = world.deploy(spec=manifests.pod_spec(command=["sh", "-c", WRITER]))
    bucket = world.bucket(readme="hello")
    world.kubectl.apply(world.claim("data", bucket))
    world.ready("data")
    await_rounds(world, pod)
    removed(kubectl, installed)
    assert remains(kubectl) == []
    assert not world.ground.mounts("/data")
    assert world.misses(pod, "/data/readme")
    assert world.restarts(pod) == 0
    assert world.store.read(bucket, "round") == world.kubectl("logs", pod).splitlines()[-1] + "\n"


def test_nodes_that_wait_for_the_driver_are_opened_by_it(world: World, installed: str) -> None:
    kubectl = world.ground.kubectl
    assert uninstall(kubectl).returncode == 0
    kubectl("taint", "nodes", "--all", f"{STARTUP_TAINT}=:NoSchedule")
    # The webhook's pods do not tolerate it, so they have to wait as well.
    install(kubectl, installed)
    assert all(STARTUP_TAINT not in keys for keys in taints(kubectl).values())
    provide_class(world)
    mounted_pod(world)


def test_the_startup_taint_goes_whenever_it_comes(world: World) -> None:
    kubectl = world.ground.kubectl
    (node, *_) = taints(kubectl)
    kubectl("taint", "node", node, f"{STARTUP_TAINT}=:NoSchedule", "another=:PreferNoSchedule")
    try:
        world.settles(lambda: STARTUP_TAINT not in taints(kubectl)[node], what="the startup taint is gone")
        assert "another" in taints(kubectl)[node]
    finally:
        kubectl("taint", "node", node, "another-")


def taints(kubectl: Kubectl) -> dict[str, list[str]]:
    """Node → the keys of its taints."""
    found = kubectl.list("nodes")
    return {node["metadata"]["name"]: [taint["key"] for taint in node["spec"].get("taints", [])] for node in found}
