"""Removed in whatever order, put on nodes that wait for it: the administrator's part. Upgrades are in `test_upgrade`.

These tests take dynvol away from the cluster and put it back.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import manifests
from e2e.busy import await_rounds
from e2e.conftest import World
from e2e.grounds import installation
from e2e.grounds.installation import SYSTEM, install
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
    """What the API server still has of dynvol. In a cluster of that name, pods of Kubernetes' own carry it inside theirs."""
    kinds = "namespaces,customresourcedefinitions,csidrivers,clusterroles,clusterrolebindings,pods"
    kinds += ",mutatingwebhookconfigurations,validatingwebhookconfigurations"
    kinds += ",validatingadmissionpolicies,validatingadmissionpolicybindings"
    found = kubectl("get", kinds, "--all-namespaces", "-o", "name").split()
    return [name for name in found if "/dynvol-" in name and "/dynvol-suite" not in name or GROUP in name]


def mounted_pod(world: World) -> str:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"
    return pod


def test_uninstalling_leaves_nothing_but_the_users_pods(world: World, installed: str) -> None:
    """And takes nothing away while a process may still be writing back."""
    pod = mounted_pod(world)
    assert world.ground.kill("dynvol node", signal="STOP")
    try:
        held = uninstall(world.ground.kubectl, "--leave-pods", timeout=5)
        assert world.mount_pods(), "nothing was removed"
    finally:
        world.ground.kill("dynvol node", signal="CONT")
    assert held.returncode == 1
    assert f"{world.namespace}/data" in held.stderr
    assert "taking its finalizer off" not in held.stdout

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


def test_uninstalling_changes_nothing_while_pods_carry_volumes_and_then_leaves_nothing_at_all(world: World, installed: str) -> None:
    pod = mounted_pod(world)
    refused = uninstall(world.ground.kubectl)
    assert refused.returncode == 1
    assert f"{world.namespace}/{pod}" in refused.stderr
    assert "Nothing was changed" in refused.stderr
    assert world.read(pod, "/data/readme") == "hello"

    world.kubectl.delete("deployment", "web")
    world.settles(lambda: not world.kubectl.list("pods"), what="the pod is gone")
    done = uninstall(world.ground.kubectl)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "taking its finalizer off" not in done.stdout
    assert remains(world.ground.kubectl) == []
    assert not world.ground.mounts("xvols/")
    assert world.ground.state_files() == []
    assert uninstall(world.ground.kubectl).returncode == 0, "again, with nothing there"


WRITER = f"""
until [ -e {ROOT}/data/readme ]; do sleep 0.1; done
while [ ! -e {ROOT}/data/stop ]; do
    round=$((round + 1))
    echo $round > {ROOT}/data/round && echo $round || exec sleep infinity
    sleep 0.1
done 2> /dev/null
"""
"""Writes all the time, and prints each number once it is written and closed. When it cannot write any more it goes on living."""


def documents(manifest: str, *kinds: str) -> tuple[str, str]:
    """Those of these kinds, and the others."""
    split: tuple[list[str], list[str]] = ([], [])
    for document in manifest.split("\n---\n"):
        found = re.search(r"^kind: (\w+)$", document, re.MULTILINE)
        split[0 if found and found[1] in kinds else 1].append(document)
    return "\n---\n".join(split[0]), "\n---\n".join(split[1])


def writing_pod(world: World) -> str:
    (pod,) = world.deploy(spec=manifests.pod_spec(command=["sh", "-c", WRITER]))
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    await_rounds(world, pod)
    return pod


def assert_removed(world: World, pod: str) -> None:
    """Nothing of dynvol is left, the pod lives, and all that it wrote and closed is in the bucket."""
    assert remains(world.ground.kubectl) == []
    assert not world.ground.mounts("/data")
    assert world.misses(pod, "/data/readme")
    assert world.restarts(pod) == 0
    assert world.store.read(world.namespace, "round") == world.kubectl("logs", pod).splitlines()[-1] + "\n"


def test_deleting_all_of_it_at_once_flushes_unmounts_and_leaves_nothing_hanging(world: World, installed: str) -> None:
    pod = writing_pod(world)
    world.ground.kubectl("delete", "-f", "-", stdin=installed, timeout=200)
    assert_removed(world, pod)


FIRST = {
    "namespace": ("Namespace",),
    "definitions": ("CustomResourceDefinition",),
    "rights": ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"),
    "node processes": ("DaemonSet", "CSIDriver"),
}


@pytest.fixture
def every_order(request: pytest.FixtureRequest) -> None:
    if not request.config.option.removal_orders:
        pytest.skip("removals in every order take four minutes: --removal-orders")


@pytest.mark.usefixtures("every_order")
@pytest.mark.parametrize("first", FIRST)
def test_whatever_is_deleted_first_the_rest_can_follow(world: World, installed: str, first: str) -> None:
    kubectl = world.ground.kubectl
    pod = writing_pod(world)
    begun, rest = documents(installed, *FIRST[first])
    kubectl("delete", "-f", "-", "--wait=false", stdin=begun)
    # So long an administrator takes to notice.
    kubectl.try_("wait", "namespace", SYSTEM, "--for=delete", "--timeout=20s", timeout=30)
    kubectl("delete", "-f", "-", "--ignore-not-found", stdin=rest, timeout=200)
    kubectl("delete", "-f", "-", "--ignore-not-found", stdin=begun, timeout=200)
    assert_removed(world, pod)


@pytest.mark.usefixtures("every_order")
def test_deleting_an_idle_installation_waits_for_nobody(world: World, installed: str) -> None:
    kubectl = world.ground.kubectl
    kubectl.delete("spc", "--all")
    world.settles(lambda: not guarded(kubectl), what="the guards are off")
    node_processes(kubectl, "none")
    kubectl("delete", "-f", "-", stdin=installed, timeout=200)
    assert remains(kubectl) == []


def guarded(kubectl: Kubectl) -> list[str]:
    found = kubectl.within(SYSTEM).list("serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,leases")
    return [f["metadata"]["name"] for f in found if f"{GROUP}/needed-for-removal" in f["metadata"].get("finalizers", ())]


def node_processes(kubectl: Kubectl, where: str) -> None:
    """Lets them run only on nodes with this label, and waits until no other does."""
    system = kubectl.within(SYSTEM)
    patch = {"spec": {"template": {"spec": {"nodeSelector": {"dynvol-suite": where}}}}}
    system("patch", "daemonset", "dynvol-node", f"--patch={json.dumps(patch)}")
    system("wait", "pods", "--selector=app.kubernetes.io/component=node", "--for=delete", "--timeout=60s", timeout=70)


def test_a_removal_without_node_processes_is_mended_by_uninstalling(world: World, installed: str) -> None:
    kubectl = world.ground.kubectl
    pod = writing_pod(world)
    world.settles(lambda: guarded(kubectl), what="there are guards")
    node_processes(kubectl, "none")
    rude = kubectl.try_("delete", "-f", "-", "--timeout=10s", stdin=installed, timeout=200)
    assert rude.code, "nobody is left who would take finalizers off"
    done = uninstall(kubectl, "--leave-pods")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "taking its finalizer off" in done.stdout
    assert_removed(world, pod)


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
    return {node["metadata"]["name"]: [taint["key"] for taint in node.get("spec", {}).get("taints", [])] for node in found}
