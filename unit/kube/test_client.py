from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from blockbuster import blockbuster_ctx

from dynvol.api.claim import ClaimStatus
from dynvol.api.resources import CLAIMS, CLASSES, NODES, PODS, SECRETS
from dynvol.kube import client as kube_client
from dynvol.kube import errors
from dynvol.kube.client import KubeClient, collection_path, object_path

from .server import Script, breaks_off, kubeconfig, pod, refuses, says, serving, streams


def test_paths_follow_group_scope_and_subresource() -> None:
    group = "dynamicvolume.csi.cloudnative101.net"
    assert collection_path(PODS) == "/api/v1/pods"
    assert collection_path(PODS, namespace="a") == "/api/v1/namespaces/a/pods"
    assert object_path(NODES, "n1") == "/api/v1/nodes/n1"
    assert object_path(CLASSES, "s3", subresource="status") == f"/apis/{group}/v1alpha1/storageproviderclasses/s3/status"
    assert object_path(CLAIMS, "c", namespace="a") == f"/apis/{group}/v1alpha1/namespaces/a/dynamicvolumeclaims/c"


def test_a_name_cannot_leave_its_place_in_the_path() -> None:
    assert object_path(PODS, "../../nodes", namespace="a") == "/api/v1/namespaces/a/pods/..%2F..%2Fnodes"


@pytest.mark.parametrize(("name", "namespace"), [("", "a"), ("x", "")])
def test_an_object_without_a_name_or_namespace_is_refused_before_it_becomes_all_of_them(name: str, namespace: str) -> None:
    with pytest.raises(ValueError, match="without a name|needs a namespace"):
        object_path(PODS, name, namespace=namespace)


async def test_get_decodes_the_projection(client: KubeClient, script: Script) -> None:
    script.then(says(pod(nodeName="n1")))
    found = await client.get(PODS, "web", namespace="ns")
    assert (found.metadata.key, found.spec.node_name) == ("ns/web", "n1")
    assert (script.seen[0].method, script.seen[0].path) == ("GET", "/api/v1/namespaces/ns/pods/web")


async def test_what_is_not_there_is_not_found(client: KubeClient, script: Script) -> None:
    script.then(refuses(404, "NotFound", 'pods "web" not found'))
    with pytest.raises(errors.NotFound, match='pods "web" not found'):
        await client.get(PODS, "web", namespace="ns")


async def test_an_answer_that_does_not_fit_says_so_without_its_content(client: KubeClient, script: Script) -> None:
    script.then(says(pod(nodeName=["secret-value"])))
    with pytest.raises(errors.Malformed) as caught:
        await client.get(PODS, "web", namespace="ns")
    assert "secret-value" not in str(caught.value)


async def test_a_small_list_is_read_to_its_last_page(client: KubeClient, script: Script) -> None:
    first = {"metadata": {"resourceVersion": "5", "continue": "token"}, "items": [pod("a")]}
    script.then(says(first)).then(says({"metadata": {"resourceVersion": "5"}, "items": [pod("b")]}))
    found = await client.list(PODS, namespace="ns", label_selector="app=x", field_selector="spec.nodeName=n1")
    assert [p.metadata.name for p in found] == ["a", "b"]
    selectors = {"labelSelector": "app=x", "fieldSelector": "spec.nodeName=n1"}
    assert script.seen[0].query == selectors | {"limit": "500"}
    assert script.seen[1].query == selectors | {"limit": "500", "continue": "token"}


async def test_create_fills_in_what_the_resource_is(client: KubeClient, script: Script) -> None:
    script.then(says(pod()))
    await client.create(PODS, {"metadata": {"name": "web"}}, namespace="ns")
    assert script.seen[0].json == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}}
    assert (script.seen[0].method, script.seen[0].path) == ("POST", "/api/v1/namespaces/ns/pods")


async def test_a_struct_is_a_body_too(client: KubeClient, script: Script) -> None:
    script.then(says({"metadata": {"name": "c"}, "spec": {"mountpoint": "/d", "selector": {}}}))
    body = {"status": msgspec.to_builtins(ClaimStatus(desired=2))}
    await client.apply(CLAIMS, "c", body, namespace="ns", subresource="status", field_manager="dynvol-leader")
    assert script.seen[0].json["status"] == {"desired": 2}


async def test_a_delete_carries_its_preconditions(client: KubeClient, script: Script) -> None:
    script.then(says({"kind": "Status", "status": "Success"}))
    await client.delete(PODS, "web", namespace="ns", uid="u1", resource_version="7", grace_seconds=0, propagation="Background")
    assert script.seen[0].method == "DELETE"
    assert script.seen[0].json == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u1", "resourceVersion": "7"},
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Background",
    }


async def test_each_patch_has_its_content_type(client: KubeClient, script: Script) -> None:
    script.then(says(pod()))
    operations = [{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}]
    await client.json_patch(PODS, "web", operations, namespace="ns")
    await client.merge_patch(PODS, "web", {"metadata": {"annotations": {"gone": None}}}, namespace="ns")
    await client.apply(PODS, "web", {"spec": {}}, namespace="ns", field_manager="me", force=False)
    json_patch, merge, apply = script.seen
    assert (json_patch.headers["Content-Type"], json_patch.json) == ("application/json-patch+json", operations)
    assert merge.headers["Content-Type"] == "application/merge-patch+json"
    assert merge.json == {"metadata": {"annotations": {"gone": None}}}
    assert apply.headers["Content-Type"] == "application/apply-patch+yaml"
    assert apply.json == {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {}}
    assert apply.query == {"fieldManager": "me", "force": "false"}


async def test_the_server_knows_who_asks(client: KubeClient, script: Script) -> None:
    script.then(says(pod()))
    await client.get(PODS, "web", namespace="ns")
    assert script.seen[0].headers["User-Agent"].startswith("dynvol/")


async def test_no_server_is_unreachable(tmp_path: Path) -> None:
    async with serving(Script()) as url:
        pass
    async with KubeClient.connect(kubeconfig(tmp_path / "kubeconfig", url)) as client:
        with pytest.raises(errors.Unreachable, match="cannot be reached: Connection refused") as caught:
            await client.get(PODS, "web", namespace="ns")
    assert caught.value.retryable


async def test_an_answer_that_breaks_off_is_unreachable(client: KubeClient, script: Script) -> None:
    script.then(streams(b'{"metadata"', then=breaks_off))
    with pytest.raises(errors.Unreachable):
        await client.get(PODS, "web", namespace="ns")


async def test_a_server_that_says_nothing_is_given_up_on(
    client: KubeClient, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: Any) -> Any:
        await script.closing.wait()

    monkeypatch.setattr(kube_client, "PING", aiohttp.ClientTimeout(total=0.2))
    script.then(never)
    with pytest.raises(errors.Unreachable, match="in time"):
        await client.ping()


async def test_a_call_can_be_cancelled(client: KubeClient, script: Script) -> None:
    arrived = asyncio.Event()

    async def never(_: Any) -> Any:
        arrived.set()
        await script.closing.wait()

    script.then(never)
    call = asyncio.create_task(client.get(PODS, "web", namespace="ns"))
    await arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_ping_is_spared_where_the_server_was_heard_lately(client: KubeClient, script: Script) -> None:
    script.then(says(pod()))
    await client.ping(within=60)
    assert [s.path for s in script.seen] == ["/version"]
    await client.ping(within=60)
    assert len(script.seen) == 1


async def test_a_ping_that_is_refused_fails(client: KubeClient, script: Script) -> None:
    script.then(refuses(401, "Unauthorized"))
    with pytest.raises(errors.Unauthorized):
        await client.ping()


async def test_requests_are_counted_whatever_becomes_of_them(script: Script, tmp_path: Path) -> None:
    counted: list[tuple[str, str]] = []

    class Counting:
        def observe(self, *, method: str, code: str, seconds: float) -> None:
            assert seconds >= 0
            counted.append((method, code))

    script.then(says(pod())).then(refuses(404, "NotFound"))
    async with serving(script) as url, KubeClient.connect(kubeconfig(tmp_path / "k", url), metrics=Counting()) as client:
        await client.get(PODS, "web", namespace="ns")
        with pytest.raises(errors.NotFound):
            await client.get(PODS, "web", namespace="ns")
    async with KubeClient.connect(kubeconfig(tmp_path / "k", url), metrics=Counting()) as client:
        with pytest.raises(errors.Unreachable):
            await client.get(PODS, "web", namespace="ns")
    assert counted == [("GET", "200"), ("GET", "404"), ("GET", "<error>")]


async def test_nothing_logs_a_body(client: KubeClient, script: Script, caplog: pytest.LogCaptureFixture) -> None:
    script.then(says({"metadata": {"name": "s", "namespace": "ns"}, "data": {"key": "aHVudGVyMg=="}}))
    script.then(refuses(422, "Invalid", "no"))
    with caplog.at_level(logging.DEBUG):
        secret = await client.get(SECRETS, "s", namespace="ns")
        with pytest.raises(errors.Invalid):
            await client.create(SECRETS, {"data": {"key": "aHVudGVyMg=="}}, namespace="ns")
    assert secret.data == {"key": b"hunter2"}
    assert "aHVudGVyMg" not in caplog.text
    assert "hunter2" not in caplog.text


async def test_no_request_blocks_the_event_loop(script: Script, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    script.then(says({"metadata": {"resourceVersion": "1"}, "items": [pod()]}))
    async with serving(script) as url, KubeClient.connect(kubeconfig(tmp_path / "k", url, user={"tokenFile": "token"})) as client:
        with blockbuster_ctx("dynvol"):
            await client.list(PODS)
    assert script.seen[0].headers["Authorization"] == "Bearer t"
