"""Removed in whatever order, upgraded under load, put on nodes that wait for it: the administrator's part.

These tests take dynvol away from the cluster and put it back.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import manifests
from e2e.conftest import World
from e2e.kubectl import Kubectl, clean_environment, eventually
from e2e.manifests import GROUP

PROJECT = Path(__file__).resolve().parents[1]
CONFIG = PROJECT / "config" / "default"
SYSTEM = "dynvol-system"
WORKLOADS = ("daemonset/dynvol-node", "deployment/dynvol-webhook")


@pytest.fixture
def installed(world: World) -> Iterator[str]:
    """The manifest that is installed; it is again after the test."""
    kubectl = Kubectl(world.kubectl.kubeconfig)
    manifest = as_installed(kubectl)
    yield manifest
    install(kubectl, manifest)
    # Classes went with their definition; what every test takes down has to be there.
    name, secret_namespace = world.provider_class, world.namespace
    kubectl.apply(manifests.provider_class(name, secret="s3", secret_namespace=secret_namespace))


def as_installed(kubectl: Kubectl) -> str:
    """config/default with the image that the cluster runs, which may be another than the one it names."""
    (container,) = kubectl.within(SYSTEM).get("daemonset", "dynvol-node")["spec"]["template"]["spec"]["containers"]
    lines = kubectl("kustomize", str(CONFIG)).splitlines()
    return "\n".join(f"{line.partition('image:')[0]}image: {container['image']}" if " image: " in line else line for line in lines)


def install(kubectl: Kubectl, manifest: str) -> None:
    """While an earlier removal is still under way, the API server refuses some of it."""
    eventually(lambda: kubectl("apply", "-f", "-", stdin=manifest), within=60)
    for what in WORKLOADS:
        eventually(lambda what=what: rolled_out(kubectl, what), within=90)  # type: ignore[misc]


def rolled_out(kubectl: Kubectl, what: str) -> str:
    return kubectl.within(SYSTEM)("rollout", "status", what, "--timeout=60s", timeout=70)


def uninstall(kubectl: Kubectl, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "hack" / "uninstall"), f"--kubeconfig={kubectl.kubeconfig}", "--yes", "--timeout=60"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False, env=clean_environment())


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


def test_a_removal_in_the_wrong_order_is_mended_by_uninstalling(world: World, installed: str) -> None:
    pod = mounted_pod(world)
    rude = world.ground.kubectl.try_("delete", "-k", str(CONFIG), "--timeout=20s", timeout=200)
    assert rude.code, "claims and classes are held by finalizers that nobody is left to take off"
    done = uninstall(world.ground.kubectl, "--leave-pods")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{world.namespace}/data" in done.stdout
    assert remains(world.ground.kubectl) == []
    assert not world.ground.mounts("/data")
    assert world.restarts(pod) == 0
