"""The suite's fixtures: one cluster for all tests, one namespace, class and Secret for each.

The cluster is the local one, started for the session (`e2e.grounds`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from e2e import manifests
from e2e.grounds.ground import Ground, ObjectStore
from e2e.grounds.session import local_ground
from e2e.kubectl import Kubectl, eventually

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with local_ground(tmp_path_factory.mktemp("ground")) as found:
        yield found


@dataclass(frozen=True, slots=True)
class World:
    """One test's corner of the cluster: a namespace, a class with its Secret, and short ways to what a user would do."""

    ground: Ground
    namespace: str
    kubectl: Kubectl
    store: ObjectStore
    provider_class: str
    made: list[str] = field(default_factory=list)
    """Buckets."""

    @property
    def annotations(self) -> dict[str, str]:
        return manifests.opted_in(self.provider_class)

    def bucket(self, suffix: str = "", **objects: str) -> str:
        return self.store.make(f"{self.namespace}{suffix and '-' + suffix}", **objects)

    def claim(self, name: str, bucket: str, **spec: Any) -> dict[str, Any]:
        return manifests.claim(name, bucket=bucket, endpoint=spec.pop("endpoint", self.store.endpoint), **spec)

    def deploy(self, *, replicas: int = 1, spec: dict[str, Any] | None = None, **annotations: str) -> list[str]:
        """A Deployment `web` of annotated pods that runs; the names of its pods."""
        chosen = {**self.annotations, **annotations}
        self.kubectl.apply(manifests.deployment("web", annotations=chosen, replicas=replicas, spec=spec))
        self.kubectl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
        return self.pods()

    def pods(self, selector: str = "app=web") -> list[str]:
        """Those that are not on their way out."""
        found = self.kubectl.list("pods", f"--selector={selector}")
        return sorted(p["metadata"]["name"] for p in found if "deletionTimestamp" not in p["metadata"])

    def ready(self, name: str, *, timeout: float = 60.0) -> dict[str, Any]:
        """Waits until the claim is Ready; the claim."""
        self.kubectl.wait(f"dvc/{name}", condition="condition=Ready", timeout=timeout)
        return self.kubectl.get("dvc", name)

    def read(self, pod: str, path: str) -> str:
        """A file as the pod's own container reads it. Raises AssertionError."""
        done = self.kubectl.exec(pod, "cat", f"{manifests.ROOT}{path}")
        assert done.code == 0, done.said
        return done.out

    def sees(self, pod: str, path: str, text: str) -> bool:
        return self.read(pod, path) == text

    def misses(self, pod: str, path: str) -> bool:
        """Whether the path is not there: neither unreadable nor hanging, but gone."""
        done = self.kubectl.exec(pod, "ls", f"{manifests.ROOT}{path}")
        assert "No such file or directory" in done.said, done.said
        return True

    def condition(self, name: str, kind: str, *, resource: str = "dvc") -> dict[str, str]:
        conditions = self.kubectl.get(resource, name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {"status": "", "reason": "", "message": ""})

    def settles(self, look: Callable[[], Any], *, within: float = 60.0, what: str = "") -> Any:
        return eventually(look, within=within, what=what)

    def mount_pods(self) -> list[str]:
        """The mount pods that serve this namespace."""
        key = f"{manifests.GROUP}/workload"
        found = self.kubectl.within("dynvol-system").list("pods", f"--selector={manifests.GROUP}/mount-pod")
        return [p["metadata"]["name"] for p in found if p["metadata"]["annotations"].get(key, "").startswith(f"{self.namespace}/")]

    def restarts(self, pod: str) -> int:
        statuses = self.kubectl.get("pod", pod)["status"].get("containerStatuses", [])
        return sum(s["restartCount"] for s in statuses)

    def phases(self, name: str) -> dict[str, str]:
        """pod → phase, as the claim's status says."""
        return {e["pod"]: e["phase"] for e in self.kubectl.get("dvc", name).get("status", {}).get("pods", [])}

    def in_class(self, name: str) -> World:
        return replace(self, provider_class=name)


@pytest.fixture
def world(ground: Ground, request: pytest.FixtureRequest) -> Iterator[World]:
    """Made before the test, and taken down after it, also when it failed: then everything of it must be gone from the node."""
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:30].strip("-")
    name = f"t{next(_numbers)}-{slug}".rstrip("-")
    store = ground.store
    ground.kubectl.apply(
        manifests.namespace(name),
        manifests.secret("s3", namespace=name, access=store.access, key=store.key),
        manifests.provider_class(name, secret="s3", secret_namespace=name, mount_memory_limit="128Mi"),
    )
    made = World(ground, name, ground.kubectl.within(name), store, name)
    yield made
    made.kubectl.delete("dvc", "--all", timeout=90)
    ground.kubectl.delete("namespace", name, timeout=90)
    ground.kubectl.delete("spc", name, timeout=60)
    eventually(lambda: not made.mount_pods(), what="the mount pods are gone")
    eventually(lambda: not [f for f in ground.state_files() if f"/{name}/" in f], what="the node's directories are gone")
    assert not ground.mounts(f"xvols/{name}/")
