"""Any cluster that a kubeconfig names, as a ground: dynvol is installed from config/, and removed again if it was not there before.

Its image must be where the cluster's nodes find it. What the suite does on nodes is done by a privileged pod on each, which runs
that image's Python. The S3 server is given, for it must be reachable from the suite and from the mount pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e import manifests
from e2e.kubectl import Kubectl

from . import installation, onnode
from .ground import ObjectStore
from .installation import SYSTEM

HANDS = "dynvol-suite"
"""Namespace, and name of the DaemonSet in it."""


@dataclass(frozen=True, slots=True)
class AnyCluster:
    """`ground.Ground` on a cluster that has dynvol and the suite's hands on its nodes."""

    kubectl: Kubectl
    store: ObjectStore

    def kill(self, program: str, *, pod: str = "", signal: str = "KILL") -> int:
        pods = [pod] if pod else [p["metadata"]["name"] for p in self.kubectl.within(SYSTEM).list("pods")]
        return sum(self._on_nodes("kill", program, signal, *pods))

    def mounts(self, containing: str) -> list[str]:
        return [point for points in self._on_nodes("mounts", containing) for point in points]

    def state_files(self) -> list[str]:
        return [path for paths in self._on_nodes("state-files") for path in paths]

    def write(self, path: str, text: str) -> None:
        self._on_nodes("write", path, text)

    def read(self, path: str) -> str | None:
        return next((text for text in self._on_nodes("read", path) if text is not None), None)

    def link(self, path: str, to: str) -> None:
        self._on_nodes("link", path, to)

    def erase(self, directory: str) -> None:
        self._on_nodes("erase", directory)

    def findings(self, text: str) -> list[str]:
        return [place for places in self._on_nodes("findings", text.encode().hex()) for place in places]

    def run_in(self, pod_uid: str, *command: str) -> str:
        """The API server is there for the suite, also when it is not for dynvol."""
        everywhere = self.kubectl.list("pods", "--all-namespaces")
        (pod,) = (p["metadata"] for p in everywhere if p["metadata"]["uid"] == pod_uid)
        done = self.kubectl.within(pod["namespace"]).exec(pod["name"], *command)
        return done.out + done.err

    def fetch(self, address: str) -> tuple[int, str]:
        status, text = self._on_nodes("fetch", address)[0]
        return status, text

    def reboot(self) -> None:
        pytest.skip("the suite does not reboot the nodes of a cluster that is not its own")

    @contextmanager
    def without_api(self) -> Iterator[None]:
        """The API server of a cluster that is not the suite's lives on; what works on the nodes is cut off from it."""
        on_nodes = "--selector=app.kubernetes.io/component in (node, mount-pod)"
        found = self.kubectl.within(SYSTEM).list("pods", on_nodes)
        if any(pod["spec"].get("hostNetwork") for pod in found):
            pytest.skip("dynvol's pods share the network of their nodes, which is not to be cut off")
        pods = [pod["metadata"]["name"] for pod in found]
        address = self.kubectl.within("default").get("service", "kubernetes")["spec"]["clusterIP"]
        try:
            assert sum(self._on_nodes("cut-off", address, *pods)) == len(pods)
            yield
        finally:
            self._on_nodes("let-through", address, *pods)

    def _on_nodes(self, *arguments: str) -> list[Any]:
        """What each node's hand found."""
        source = Path(onnode.__file__).read_text()
        hands = self.kubectl.within(HANDS)
        return [
            json.loads(hands("exec", "-i", pod["metadata"]["name"], "--", "python3", "-", *arguments, stdin=source))
            for pod in hands.list("pods")
        ]


@contextmanager
def any_cluster(kubectl: Kubectl, store: ObjectStore, *, image: str = "") -> Iterator[AnyCluster]:
    """`image`, if given, takes the place of the one that config/default names."""
    with ExitStack() as stack:
        stack.enter_context(_installed(kubectl, image=image))
        stack.enter_context(_hands(kubectl))
        yield AnyCluster(kubectl, store)


@contextmanager
def _installed(kubectl: Kubectl, *, image: str) -> Iterator[None]:
    wanted = installation.manifest(kubectl, image=image)
    present = not kubectl.within(SYSTEM).try_("get", "daemonset", "dynvol-node").code
    try:
        installation.install(kubectl, wanted, within=180)
        yield
    finally:
        if not present:
            kubectl("delete", "-f", "-", "--ignore-not-found", "--timeout=120s", stdin=wanted, timeout=180)


@contextmanager
def _hands(kubectl: Kubectl) -> Iterator[None]:
    privileged = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}
    try:
        kubectl.apply(manifests.namespace(HANDS, labels=privileged), _hand(installation.image(kubectl)))
        kubectl.within(HANDS)("rollout", "status", f"daemonset/{HANDS}", "--timeout=120s", timeout=130)
        yield
    finally:
        kubectl.delete("namespace", HANDS, timeout=90)


def _hand(image: str) -> manifests.Manifest:
    """Sees the node's processes, what kubelet and dynvol mount, and where they write, at the same paths as they do."""
    paths = dict(zip(("state", "pods", "logs"), onnode.DISK, strict=True))
    container = {
        "name": "hand",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", "import signal; signal.pause()"],
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": n, "mountPath": p, "mountPropagation": "HostToContainer"} for n, p in paths.items()],
    }
    spec = {
        "hostPID": True,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": n, "hostPath": {"path": p, "type": "DirectoryOrCreate"}} for n, p in paths.items()],
    }
    labels = {"app": HANDS}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": HANDS, "namespace": HANDS},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }
