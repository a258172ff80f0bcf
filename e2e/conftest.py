"""The suite's fixtures: one cluster for all tests, one namespace, class and Secret for each.

The ground is one of three (`e2e.grounds`), and the tests are the same on each; the head of pytest's report says which it is.

    pytest e2e                        a local cluster, with a real kube-apiserver and etcd where their programs are found
    pytest e2e --apiserver own        a local cluster with an API server of its own, all the same
    pytest e2e --kubeconfig FILE --s3-endpoint URL --s3-access-key KEY --s3-secret-key KEY [--image IMAGE]
                                      any cluster; with --s3-other-access-key and --s3-other-secret-key, keys change there too
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from e2e import manifests
from e2e.cluster import real
from e2e.grounds.anycluster import any_cluster
from e2e.grounds.ground import Ground, ObjectStore
from e2e.grounds.session import local_ground, object_store
from e2e.kubectl import Kubectl, eventually
from unit.nottried import pytest_terminal_summary  # noqa: F401 - pytest finds it by its name

_numbers = itertools.count(1)
NOTHING: Mapping[str, str] = {}
LONGEST = (
    *("test_chaos", "cluster", "test_bench", "test_installation", "test_data", "test_upgrade", "test_quickstart", "test_secrets"),
    *("test_recovery", "test_without_api", "test_credentials", "test_unflushed", "test_pvc", "test_shared"),
)
"""What takes the longest in here, in this order."""
HERE = Path(__file__).parent
_run = secrets.token_hex(2)
"""Keeps what one run makes apart from what another left, on clusters and S3 servers that stay."""


def pytest_configure(config: pytest.Config) -> None:
    """Say that no event loop is set: looptime asks the policy before each test, which would make one that no one closes."""
    asyncio.set_event_loop(None)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A cluster that is given is one for all: tests that take dynvol away from it cannot run beside others."""
    if config.option.kubeconfig:
        config.option.numprocesses = 0
        config.option.dist = "no"
    if config.option.apiserver == "real" and real.programs() is None:
        raise pytest.UsageError(real.MISSING)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left alone with one of them in the end. The local cluster's own tests go to one
    worker together: they want servers and a cluster that no others want."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(_part(item), len(places)))
    for item in items:
        if _part(item) == "cluster":
            item.add_marker(pytest.mark.xdist_group("cluster"))


def _part(item: pytest.Item) -> str:
    """The file or folder, in here, that a test is from."""
    return item.path.relative_to(HERE).with_suffix("").parts[0] if item.path.is_relative_to(HERE) else ""


def pytest_report_header(config: pytest.Config) -> str:
    if given := config.option.kubeconfig:
        return f"ground: the cluster of {given}"
    return f"ground: a local cluster, {f'with {real.programs()}/kube-apiserver' if on_real(config) else 'with its own API server'}"


def on_real(config: pytest.Config) -> bool:
    """Whether the local cluster gets a real API server: where there is one, unless told otherwise."""
    return real.programs() is not None and config.option.apiserver != "own"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cluster", "where the end-to-end tests run; without these, on a local cluster that they start")
    group.addoption("--apiserver", choices=("own", "real"), help="of the local cluster; default: a real one where there is one")
    group.addoption("--skew-from", default="", metavar="REVISION", help="upgrade from this commit and go back to it, too")
    group.addoption("--kubeconfig", type=Path, help="of a cluster, whose administrator it must name")
    group.addoption("--s3-endpoint", default="", help="URL of an S3 server that the tests and the cluster's pods reach alike")
    group.addoption("--s3-access-key", default="", help="with which buckets can be made there")
    group.addoption("--s3-secret-key", default="", help="which belongs to the access key")
    group.addoption("--s3-other-access-key", default="", help="another that opens the same buckets: keys are changed for it")
    group.addoption("--s3-other-secret-key", default="", help="which belongs to the other access key")
    group.addoption("--removal-orders", action="store_true", help="also remove dynvol in every order, which takes four minutes")
    group.addoption("--image", default="", help="dynvol's, if the cluster finds it under another name than config/default's")


@pytest.fixture(scope="session")
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    given = request.config.option
    if given.kubeconfig:
        other = (given.s3_other_access_key, given.s3_other_secret_key)
        store = object_store(
            given.s3_endpoint, access=given.s3_access_key, key=given.s3_secret_key, other=other if all(other) else None
        )
        chosen: AbstractContextManager[Ground] = any_cluster(Kubectl(given.kubeconfig), store, image=given.image)
    else:
        chosen = local_ground(tmp_path_factory.mktemp("ground"), real_apiserver=on_real(request.config))
    with chosen as found:
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
        made = self.store.make(f"{self.namespace}{suffix and '-' + suffix}", **objects)
        self.made.append(made)
        return made

    def claim(self, name: str, bucket: str, **spec: Any) -> dict[str, Any]:
        return manifests.claim(name, bucket=bucket, endpoint=spec.pop("endpoint", self.store.endpoint), **spec)

    def deploy(
        self, *, replicas: int = 1, spec: dict[str, Any] | None = None, annotations: Mapping[str, str] = NOTHING
    ) -> list[str]:
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
    """Made before the test, and taken down after it, also when it failed to be made: then all of it must be gone from the node."""
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())[:30].strip("-")
    name = f"t{_run}-{next(_numbers)}-{slug}".rstrip("-")
    made = World(ground, name, ground.kubectl.within(name), ground.store, name)
    with _taken_down(made):
        ground.kubectl.apply(
            manifests.namespace(name),
            manifests.secret("s3", namespace=name, access=ground.store.access, key=ground.store.key),
            manifests.provider_class(name, secret="s3", secret_namespace=name, mount_memory_limit="128Mi"),
        )
        yield made


@contextmanager
def _taken_down(world: World) -> Iterator[None]:
    """Each step is taken though one before it failed: the cluster, and the tests that follow on it, may stay.

    1. Claims. 2. The namespace; it takes a cluster's controllers their time, and all that is of dynvol is waited for instead.
    3. Classes. 4. What must be gone from the nodes is looked for. 5. Buckets.
    """
    ground, name = world.ground, world.namespace
    with ExitStack() as steps:
        steps.callback(_remove_buckets, world)
        steps.callback(_nothing_is_left, world)
        steps.callback(lambda: ground.kubectl.delete("spc", *_classes(world), "--ignore-not-found", timeout=60))
        steps.callback(lambda: ground.kubectl.delete("namespace", name, "--ignore-not-found", wait=False))
        steps.callback(lambda: world.kubectl.delete("dvc", "--all", timeout=90))
        yield


def _classes(world: World) -> list[str]:
    """The test's own; the first one's name also where there is none, since kubectl insists on one."""
    found = [c["metadata"]["name"] for c in world.ground.kubectl.list("spc")]
    return [c for c in found if c.startswith(world.namespace)] or [world.namespace]


def _remove_buckets(world: World) -> None:
    for bucket in world.made:
        world.store.remove(bucket)


def _nothing_is_left(world: World) -> None:
    ground, name = world.ground, world.namespace
    eventually(lambda: not world.mount_pods(), what="the mount pods are gone")
    eventually(lambda: not [f for f in ground.state_files() if f"/{name}/" in f], what="the node's directories are gone")
    assert not ground.mounts(f"xvols/{name}/")
