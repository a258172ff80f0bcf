"""One local cluster for the tests in here, and a namespace of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster.api import ApiClient, Object, path
from e2e.cluster.lifecycle import LocalCluster

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    able = os.geteuid() == 0 and shutil.which("runc") and shutil.which("kubectl")
    for item in items:
        if not able and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="needs root, runc and kubectl"))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """Two nodes with disks of 16 MiB, impatient: restarts after a second, contents refreshed twice a second. A real API server only
    if asked for."""
    real = request.config.option.apiserver == "real"
    with tempfile.TemporaryDirectory(prefix="cluster-test-") as folder:
        state = Path(folder) / "state"
        local = LocalCluster(state, nodes=2, real_apiserver=real, crash_backoff=1.0, refresh=0.5, heartbeat=1.0, disk=16)
        try:
            asyncio.run(local.up(guarded=True))
            yield local
        finally:
            asyncio.run(local.down())


@dataclass(frozen=True, slots=True)
class Space:
    """A namespace, and what tests do in it."""

    cluster: LocalCluster
    api: ApiClient
    name: str

    def pods(self, name: str = "", sub: str = "") -> str:
        return path("v1", "pods", namespace=self.name, name=name, sub=sub)

    async def kubectl(self, *arguments: str, check: bool = True) -> str:
        return await self.cluster.kubectl("-n", self.name, *arguments, check=check)

    async def run(self, name: str, spec: Object, **metadata: object) -> Object:
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}
        return await self.api.create(self.pods(), body)

    async def wait(self, name: str, condition: str = "condition=Ready", *, limit: float = 60) -> None:
        await self.kubectl("wait", f"pod/{name}", f"--for={condition}", f"--timeout={limit}s")

    async def pod(self, name: str) -> Object:
        return await self.api.get(self.pods(name))

    async def logs(self, name: str, **params: str) -> str:
        return await self.api.text(self.pods(name, "log"), **params)

    def on_node(self, node: str, place: str) -> Path:
        """A path as the node sees it, mounts and all."""
        machine = self.cluster.machine(node)
        assert machine is not None
        return Path(f"/proc/{machine.pid}/root{place}")

    async def events(self, name: str) -> list[tuple[str, str]]:
        """(reason, message) of the Events about a pod."""
        url = path("v1", "events", namespace=self.name)
        found = await self.api.list(url, fieldSelector=f"involvedObject.name={name}")
        return [(event["reason"], event["message"]) for event in found]


@pytest.fixture
async def space(cluster: LocalCluster) -> AsyncIterator[Space]:
    """A namespace that is deleted, with all that is in it, when the test is over."""
    async with cluster.api() as api:
        name = f"test-{next(_numbers)}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        await api.create(path("v1", "namespaces"), body)
        await _has_account(api, name)
        yield Space(cluster, api, name)
        await cluster.kubectl("delete", "namespace", name, "--wait", "--timeout=60s")


async def _has_account(api: ApiClient, namespace: str) -> None:
    """Pods are admitted only once their service account is there."""
    url = path("v1", "serviceaccounts", namespace=namespace)
    async with asyncio.timeout(20):
        while not await api.list(url):  # noqa: ASYNC110 - another process's work has no event
            await asyncio.sleep(0.05)
