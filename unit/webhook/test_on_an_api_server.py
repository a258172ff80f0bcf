"""The whole webhook process beside an API server, with the configurations that config/ installs.

Only the way to it differs from a cluster's: there are no Services here, so the configurations name a URL.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from dynvol.api import names
from dynvol.app.webhook import WebhookSettings, _WebhookProcess
from e2e.grounds.envtest import free_ports
from unit.apiservers import CONFIG, KINDS, Kubectl, apiserver, eventually, needs_kubectl

SECRET = "dynvol-webhook-certificate"
CONFIGURATIONS = ("mutatingwebhookconfiguration", "validatingwebhookconfiguration")

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_kubectl]


@dataclass(frozen=True)
class World:
    kubectl: Kubectl
    settings: WebhookSettings

    def another(self) -> WebhookSettings:
        """Settings of a second replica, which nobody calls."""
        https, metrics = free_ports(2)
        return replace(self.settings, listen=("127.0.0.1", https), metrics_listen=("127.0.0.1", metrics))


@asynccontextmanager
async def webhook(settings: WebhookSettings) -> AsyncIterator[asyncio.Event]:
    """Yields what asks it to leave. Ready when the block begins."""
    stopping = asyncio.Event()
    process = asyncio.create_task(_WebhookProcess(settings).run(stopping), name="webhook")
    try:
        await eventually(lambda: ready(settings))
        yield stopping
    finally:
        stopping.set()
        await process


async def ready(settings: WebhookSettings) -> bool:
    url = f"http://127.0.0.1:{settings.metrics_listen[1]}/readyz"
    try:
        async with aiohttp.ClientSession() as session:
            return (await session.get(url)).status == 200
    except aiohttp.ClientError:
        return False


def configurations(port: int) -> list[dict[str, Any]]:
    found = [yaml.safe_load((CONFIG / "webhook" / f).read_text()) for f in ("mutating.yaml", "validating.yaml")]
    for configuration in found:
        for hook in configuration["webhooks"]:
            path = hook["clientConfig"]["service"]["path"]
            hook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}"}
    return found


def pod(name: str, *, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": spec.pop("namespace", "apps"), "annotations": annotations or {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "app", "image": "x"}], **spec},
    }


def dynamic_volumes(stored: dict[str, Any]) -> list[str]:
    return [v["name"] for v in stored["spec"].get("volumes", ()) if v.get("csi", {}).get("driver") == names.DRIVER]


def namespace(
    name: str, *, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """With the service account that a controller manager would make, and without which no pod is admitted."""
    metadata = {"name": name, "labels": labels or {}, "annotations": annotations or {}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}, account]


ASKED = {names.CLASS_ANNOTATION: "s3-sample", names.ROOT_ANNOTATION: "/buckets"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with apiserver(request.param, tmp_path_factory.mktemp("apiserver")) as kubectl:
        await kubectl.ok("apply", "-k", str(CONFIG / "default"))
        for kind in CONFIGURATIONS:
            await kubectl.ok("delete", kind, "dynvol-webhook")
        await kubectl.apply(*namespace("apps"), namespace("kube-system")[1], namespace(names.NAMESPACE)[1])
        await kubectl.ok("wait", "--for=condition=Established", "crd", "--all")
        https, metrics = free_ports(2)
        # With the rights that config/rbac grants it, and no others.
        account = await kubectl.account("dynvol-webhook", namespace=names.NAMESPACE)
        settings = WebhookSettings(
            listen=("127.0.0.1", https),
            metrics_listen=("127.0.0.1", metrics),
            namespace=names.NAMESPACE,
            host_names=("127.0.0.1",),
            configurations="dynvol-webhook",
            secret=SECRET,
            lame_duck=0.5,
            kubeconfig=account.kubeconfig,
        )
        # The configurations come while the webhook waits for them.
        async with webhook(settings):
            await kubectl.apply(*configurations(https))
            world = World(kubectl, settings)
            await eventually(lambda: _trusted(kubectl))
            await eventually(lambda: _injects(kubectl))
            yield world


async def _trusted(kubectl: Kubectl) -> bool:
    found = [await kubectl.json("get", kind, "dynvol-webhook") for kind in CONFIGURATIONS]
    return all(hook["clientConfig"].get("caBundle") for configuration in found for hook in configuration["webhooks"])


async def _injects(kubectl: Kubectl) -> bool:
    status, said = await kubectl.tried(pod("probe", annotations=ASKED))
    return status == 0 and "dynamic-volume-root-path" in said


async def test_an_annotated_pod_is_stored_with_its_volume(world: World) -> None:
    said = await world.kubectl.apply(pod("annotated", annotations=ASKED, initContainers=[{"name": "init", "image": "x"}]))
    stored = await world.kubectl.json("get", "pod", "-n", "apps", "annotated")
    assert dynamic_volumes(stored) == ["dynamic-volume-root-path"]
    assert stored["metadata"]["labels"] == {names.INJECTED_LABEL: "true"}
    for container in (*stored["spec"]["containers"], *stored["spec"]["initContainers"]):
        assert container["volumeMounts"][-1] == {
            "name": "dynamic-volume-root-path",
            "mountPath": "/buckets",
            "mountPropagation": "HostToContainer",
        }
    assert "Warning: StorageProviderClass s3-sample does not exist" in said


async def test_a_refusal_reaches_the_terminal_in_words(world: World) -> None:
    status, said = await world.kubectl(
        "apply", "-f", "-", given=json.dumps(pod("bad", annotations={**ASKED, names.ROOT_ANNOTATION: "/"}))
    )
    assert status != 0
    assert "cannot be the volume's root" in said


async def test_a_silent_pod_of_a_namespace_that_was_just_made_to_speak_gets_its_volume(world: World) -> None:
    speaking = namespace("speaking", labels={names.INJECT: "enabled"}, annotations=ASKED)
    await world.kubectl.apply(*speaking, pod("silent", namespace="speaking"))
    stored = await world.kubectl.json("get", "pod", "-n", "speaking", "silent")
    assert stored["metadata"]["labels"] == {names.INJECTED_LABEL: "true"}


async def test_a_pod_that_opts_out_of_its_namespace_is_left_alone(world: World) -> None:
    speaking = namespace("opting-out", labels={names.INJECT: "enabled"}, annotations=ASKED)
    await world.kubectl.apply(*speaking, pod("out", namespace="opting-out", annotations={names.INJECT: "false"}))
    assert dynamic_volumes(await world.kubectl.json("get", "pod", "-n", "opting-out", "out")) == []


async def test_a_volume_written_by_hand_is_labelled(world: World) -> None:
    csi = {"driver": names.DRIVER, "readOnly": True, "volumeAttributes": {names.CLASS_ATTRIBUTE: "s3-sample"}}
    await world.kubectl.apply(pod("by-hand", volumes=[{"name": "mine", "csi": csi}]))
    stored = await world.kubectl.json("get", "pod", "-n", "apps", "by-hand")
    assert stored["metadata"]["labels"] == {names.INJECTED_LABEL: "true"}


@pytest.mark.parametrize("place", ["kube-system", names.NAMESPACE])
async def test_pods_of_the_system_are_never_touched(world: World, place: str) -> None:
    await world.kubectl.apply(pod("system", namespace=place, annotations=ASKED))
    assert dynamic_volumes(await world.kubectl.json("get", "pod", "-n", place, "system")) == []


async def test_a_class_that_cannot_work_is_denied_and_a_tight_one_warned_of(world: World) -> None:
    sample = yaml.safe_load((CONFIG / "samples" / "class.yaml").read_text())
    sample["spec"]["parameters"][names.MEMORY_LIMIT_PARAMETER] = "plenty"
    status, said = await world.kubectl.tried(sample)
    assert status != 0
    assert "'plenty' is no amount" in said
    said = await world.kubectl.ok("apply", "--dry-run=server", "-f", str(CONFIG / "samples" / "class.yaml"))
    assert "Warning: with mount-cpu-limit 10m" in said


async def test_a_claim_is_denied_for_what_can_never_work_and_warned_of_overlaps(world: World) -> None:
    sample = yaml.safe_load((CONFIG / "samples" / "claim.yaml").read_text())
    sample["metadata"] = {"name": "first", "namespace": "apps"}
    said = await world.kubectl.apply(sample)
    assert "Warning: StorageProviderClass s3-sample does not exist" in said

    async def warned() -> bool:
        _, heard = await world.kubectl.tried({**sample, "metadata": {"name": "second", "namespace": "apps"}})
        return "overlaps that of claim first" in heard

    await eventually(warned)
    sample["metadata"]["name"] = "third"
    sample["spec"]["selector"] = {"matchLabels": {"no such key": "x"}}
    status, said = await world.kubectl.tried(sample)
    assert status != 0
    assert "cannot be a label's key" in said


async def test_applying_the_configurations_again_leaves_the_bundle_alone(world: World) -> None:
    await world.kubectl.apply(*configurations(world.settings.listen[1]))
    assert await _trusted(world.kubectl)


async def test_a_second_replica_serves_what_the_first_one_made(world: World) -> None:
    before = await world.kubectl.json("get", "secret", "-n", names.NAMESPACE, SECRET)
    async with webhook(world.another()):
        after = await world.kubectl.json("get", "secret", "-n", names.NAMESPACE, SECRET)
    assert after["data"] == before["data"]


async def test_replicas_that_race_for_a_missing_certificate_agree_and_no_pod_is_lost(world: World) -> None:
    await world.kubectl.ok("delete", "secret", "-n", names.NAMESPACE, SECRET)
    async with webhook(world.another()), webhook(world.another()):
        secret = await world.kubectl.json("get", "secret", "-n", names.NAMESPACE, SECRET)
        assert secret["type"] == "kubernetes.io/tls"
        # The replica that is called still serves the old one, in which the bundle must go on trusting.
        assert await _injects(world.kubectl)


async def test_without_a_webhook_only_pods_that_opted_in_are_held_up(world: World) -> None:
    """Fail for those, and for nobody else."""
    nowhere = configurations(free_ports(1)[0])
    for configuration in nowhere:
        for hook in configuration["webhooks"]:
            hook["name"] = f"gone.{hook['name']}"
        configuration["metadata"]["name"] = "nobody-listens"
    await world.kubectl.apply(*nowhere)
    try:

        async def held_up() -> bool:
            status, said = await world.kubectl(
                "create", "--dry-run=server", "-f", "-", given=json.dumps(pod("held", annotations=ASKED))
            )
            return status != 0 and 'failed calling webhook "gone.' in said

        await eventually(held_up)
        await world.kubectl.apply(pod("bystander"))
        claim = yaml.safe_load((CONFIG / "samples" / "claim.yaml").read_text())
        await world.kubectl.apply({**claim, "metadata": {"name": "while-away", "namespace": "apps"}})
    finally:
        await world.kubectl.ok("delete", ",".join(CONFIGURATIONS), "nobody-listens")
