"""CSI on the local cluster: a driver in a pod registers, and inline volumes are published in kubelet's order."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import mounts
from e2e.cluster.api import ApiError, Object, path
from e2e.cluster.kubelet.csi import volume_id
from e2e.cluster.tests.conftest import Space
from e2e.cluster.tests.test_pods import FOREVER, eventually, only, shell

PROJECT = Path(__file__).resolve().parents[3]
NODE = "node-1"


@dataclass(frozen=True, slots=True)
class Driver:
    space: Space
    name: str

    @property
    def pod(self) -> Object:
        """As real drivers are deployed: privileged, sees kubelet's folders, and its mounts travel to the node."""

        def folder(name: str, where: str, propagation: str = "None") -> tuple[Object, Object]:
            volume = {"name": name, "hostPath": {"path": where, "type": "DirectoryOrCreate"}}
            return volume, {"name": name, "mountPath": where, "mountPropagation": propagation}

        root = "/var/lib/kubelet"
        parts = [
            folder("pods", f"{root}/pods", "Bidirectional"),
            folder("plugin", f"{root}/plugins/{self.name}"),
            folder("registry", f"{root}/plugins_registry"),
        ]
        container = {
            "name": "driver",
            "image": "python",
            "command": [sys.executable, "-m", "e2e.cluster.tests.csi_driver", self.name, root],
            "workingDir": str(PROJECT),
            "securityContext": {"privileged": True},
            "volumeMounts": [mount for _, mount in parts],
        }
        return only(container, volumes=[volume for volume, _ in parts], nodeName=NODE, terminationGracePeriodSeconds=1)

    async def start(self) -> None:
        await self.space.run("driver", self.pod)
        await self.registered(holds=True)

    async def registered(self, *, holds: bool) -> None:
        async def check() -> bool:
            try:
                found = await self.space.api.get(path("storage.k8s.io/v1", "csinodes", name=NODE))
            except ApiError:
                return not holds
            return any(driver["name"] == self.name for driver in found["spec"].get("drivers") or ()) == holds

        await eventually(check)

    def user(self, **attributes: str) -> Object:
        """A pod with a volume of this driver."""
        source = {"driver": self.name, "readOnly": True, "volumeAttributes": attributes}
        container = shell(FOREVER, volumeMounts=[{"name": "v", "mountPath": "/v"}])
        return only(container, volumes=[{"name": "v", "csi": source}], nodeName=NODE)

    async def calls(self) -> list[str]:
        """What the driver was asked to do: "publish" and "unpublish", in order."""
        lines = (await self.space.logs("driver")).splitlines()
        return [line.split()[0] for line in lines if line.startswith(("publish", "unpublish"))]


@pytest.fixture
async def driver(space: Space) -> AsyncIterator[Driver]:
    name = f"{space.name}.csi.example"
    spec = {"volumeLifecycleModes": ["Ephemeral"], "podInfoOnMount": True, "attachRequired": False, "fsGroupPolicy": "None"}
    body = {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": name}, "spec": spec}
    url = path("storage.k8s.io/v1", "csidrivers")
    await space.api.create(url, body)
    yield Driver(space, name)
    await space.kubectl("delete", "pods", "--all", "--selector=!driver", "--wait", "--timeout=60s", check=False)
    await space.api.delete(f"{url}/{name}")


def asked_of(space: Space, pod: Object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((target(space, pod) / "asked.json").read_text())
    return found


def target(space: Space, pod: Object) -> Path:
    return space.on_node(NODE, f"/var/lib/kubelet/pods/{pod['metadata']['uid']}/volumes/kubernetes.io~csi/v/mount")


async def test_a_driver_is_written_into_node_and_csinode(driver: Driver) -> None:
    await driver.start()
    node = await driver.space.api.get(path("v1", "nodes", name=NODE))
    ids = json.loads(node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"])
    assert ids[driver.name] == f"id-of-{driver.name}"
    assert node["metadata"]["labels"]["test/zone"] == "a"


async def test_a_volume_is_published_with_the_pods_information_before_the_pod_starts(driver: Driver) -> None:
    space = driver.space
    await driver.start()
    await space.run("user", driver.user(color="blue"))
    await space.wait("user")
    pod = await space.pod("user")
    asked = asked_of(space, pod)
    assert asked["id"] == volume_id(pod["metadata"]["uid"], "v")
    assert asked["context"] == {
        "color": "blue",
        "csi.storage.k8s.io/pod.name": "user",
        "csi.storage.k8s.io/pod.namespace": space.name,
        "csi.storage.k8s.io/pod.uid": pod["metadata"]["uid"],
        "csi.storage.k8s.io/serviceAccount.name": "default",
        "csi.storage.k8s.io/ephemeral": "true",
    }
    assert (asked["readonly"], asked["parent_there"], asked["target_there"], asked["mode"]) == (True, True, False, 1)
    data = json.loads((target(space, pod).parent / "vol_data.json").read_text())
    assert (data["driverName"], data["volumeLifecycleMode"]) == (driver.name, "Ephemeral")


async def test_a_deleted_pod_is_unpublished_and_its_directory_goes(driver: Driver) -> None:
    space = driver.space
    await driver.start()
    await space.run("user", driver.user())
    await space.wait("user")
    pod = await space.pod("user")
    await space.kubectl("delete", "pod", "user", "--wait", "--timeout=60s")
    machine = space.cluster.machine(NODE)
    assert machine is not None
    assert await driver.calls() == ["publish", "unpublish"]
    directory = f"/var/lib/kubelet/pods/{pod['metadata']['uid']}"
    assert not space.on_node(NODE, directory).exists()
    assert mounts.below(Path(directory), process=str(machine.pid)) == []


async def test_a_pod_waits_for_a_driver_that_comes_late(driver: Driver) -> None:
    space = driver.space
    await space.run("user", driver.user())

    async def told() -> bool:
        return any("not found in the list of registered CSI drivers" in text for _, text in await space.events("user"))

    await eventually(told)
    assert (await space.pod("user"))["status"]["phase"] == "Pending"
    await driver.start()
    await space.wait("user")


async def test_a_refused_publish_leaves_no_directory_and_is_tried_again(driver: Driver) -> None:
    space = driver.space
    await driver.start()
    await space.kubectl("exec", "driver", "--", "touch", f"/fail-{driver.name}")
    await space.run("user", driver.user(fail="INVALID_ARGUMENT"))

    async def told() -> bool:
        expected = "code = InvalidArgument desc = told to fail"
        return any(reason == "FailedMount" and expected in text for reason, text in await space.events("user"))

    await eventually(told)
    pod = await space.pod("user")
    await eventually(lambda: _is_gone(target(space, pod).parent))
    await space.kubectl("exec", "driver", "--", "rm", f"/fail-{driver.name}")
    await space.wait("user")


async def _is_gone(place: Path) -> bool:
    return not place.exists()  # noqa: ASYNC240


async def test_a_restarted_driver_registers_again(driver: Driver) -> None:
    space = driver.space
    await driver.start()
    await space.kubectl("delete", "pod", "driver", "--wait", "--timeout=60s")
    await driver.start()
    await space.run("user", driver.user())
    await space.wait("user")


async def test_a_pod_cannot_go_before_its_driver_has_unpublished(driver: Driver) -> None:
    space = driver.space
    await driver.start()
    await space.run("user", driver.user())
    await space.wait("user")
    await space.kubectl("delete", "pod", "driver", "--wait", "--timeout=60s")
    await space.kubectl("delete", "pod", "user", "--wait=false")

    async def ended() -> bool:
        return all("terminated" in each["state"] for each in (await space.pod("user"))["status"]["containerStatuses"])

    await eventually(ended)
    await driver.start()
    await space.kubectl("wait", "pod/user", "--for=delete", "--timeout=60s")
