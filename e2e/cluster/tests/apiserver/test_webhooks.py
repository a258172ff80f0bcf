"""Admission webhooks are asked as a real server asks them, and their answers count."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from e2e.cluster.apiserver import pki
from e2e.grounds.envtest import free_ports

from .conftest import Answer, Client, Object

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1"
_numbers = itertools.count(1)

Respond = Callable[[Object], Object]


@dataclass(slots=True)
class Hook:
    """A webhook that answers as the test says, and remembers what it was asked."""

    url: str
    authority: str
    respond: Respond
    asked: list[Object] = field(default_factory=list)

    def client(self, path: str = "/") -> Object:
        return {"url": f"{self.url}{path}", "caBundle": self.authority}


def allow(_: Object) -> Object:
    return {"allowed": True}


def patching(*operations: Object) -> Respond:
    encoded = base64.b64encode(json.dumps(operations).encode()).decode()
    return lambda _: {"allowed": True, "patchType": "JSONPatch", "patch": encoded}


def adding_label(key: str, value: str = "yes") -> Respond:
    def respond(request: Object) -> Object:
        there = (request["object"]["metadata"].get("labels")) is not None
        add = {"op": "add", "path": f"/metadata/labels/{key}", "value": value}
        return patching(*([] if there else [{"op": "add", "path": "/metadata/labels", "value": {}}]), add)(request)

    return respond


async def abort_connections(runner: web.AppRunner) -> None:
    """The server under test keeps connections for later, and would have to be waited for to close them."""
    assert runner.server is not None
    for connection in list(runner.server.connections):
        if connection.transport is not None:
            connection.transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)


@asynccontextmanager
async def hook_server(folder: Path, respond: Respond) -> AsyncIterator[Hook]:
    files = pki.ensure(folder)
    pair = pki.sign_server(folder, "hook", names=["localhost", "hook.hooks.svc"], addresses=["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    (port,) = free_ports(1)
    authority = base64.b64encode(files.ca.certificate.read_bytes()).decode()
    hook = Hook(f"https://127.0.0.1:{port}", authority, respond)

    async def answer(request: web.Request) -> web.Response:
        review = await request.json()
        hook.asked.append(review["request"])
        response = {"uid": review["request"]["uid"], **hook.respond(review["request"])}
        return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    try:
        yield hook
    finally:
        await abort_connections(runner)
        await runner.cleanup()


@pytest.fixture
async def hook(tmp_path: Path) -> AsyncIterator[Hook]:
    async with hook_server(tmp_path, allow) as found:
        yield found


Configure = Callable[..., Any]


@pytest.fixture
async def configure(client: Client, namespace: str) -> AsyncIterator[Configure]:
    """Make a configuration that concerns the test's namespace only, and wait until the server heeds it."""
    made: list[str] = []

    async def make(kind: str, *hooks: Object, probe: Callable[[], Any] | None = None) -> str:
        name = f"hooks-{next(_numbers)}.example.com"
        plural = f"{kind}webhookconfigurations"
        defaults: Object = {
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 5,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        }
        webhooks = [{"name": f"h{index}.{name}", **defaults, **hook} for index, hook in enumerate(hooks)]
        path = f"{CONFIGURATIONS}/{plural}"
        (await client.post(path, {"metadata": {"name": name}, "webhooks": webhooks})).ok()
        made.append(f"{path}/{name}")
        return name

    yield make
    for path in made:
        (await client.delete(path)).ok()


async def create_until(client: Client, core: str, wanted: Callable[[Answer], bool], **body: Any) -> Answer:
    """Create maps until an answer shows that the configuration is heeded: a real server reads them a moment later."""
    async with asyncio.timeout(20):
        while True:
            named = {"generateName": "c-", **body.get("metadata", {})}
            answer = await client.post(f"{core}/configmaps", {**body, "metadata": named})
            if wanted(answer):
                return answer
            await asyncio.sleep(0.1)


def labels(answer: Answer) -> Object:
    return dict(answer.body.get("metadata", {}).get("labels") or {})


async def test_a_webhook_changes_what_is_made(client: Client, core: str, namespace: str, hook: Hook, configure: Configure) -> None:
    hook.respond = adding_label("seen")
    await configure("mutating", {"clientConfig": hook.client("/mutate")})
    answer = await create_until(client, core, lambda answer: "seen" in labels(answer), data={"k": "v"})
    assert answer.ok()["data"] == {"k": "v"}
    asked = hook.asked[-1]
    assert asked["operation"] == "CREATE" and asked["namespace"] == namespace and asked["oldObject"] is None
    assert asked["kind"] == {"group": "", "version": "v1", "kind": "ConfigMap"}
    assert asked["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
    assert "system:masters" in asked["userInfo"]["groups"] and asked["dryRun"] is False
    assert asked["object"]["data"] == {"k": "v"}
    # Name and uid are given later.
    assert "name" not in asked and not {"name", "uid"} & asked["object"]["metadata"].keys()


async def test_a_webhook_refuses_in_its_own_words(client: Client, core: str, hook: Hook, configure: Configure) -> None:
    hook.respond = lambda _: {"allowed": False, "status": {"code": 403, "message": "not today"}}
    name = await configure("validating", {"clientConfig": hook.client()})
    answer = await create_until(client, core, lambda answer: answer.status >= 400)
    assert answer.refused(403)["message"] == f'admission webhook "h0.{name}" denied the request: not today'


async def test_a_webhooks_warnings_reach_the_client(client: Client, core: str, hook: Hook, configure: Configure) -> None:
    hook.respond = lambda _: {"allowed": True, "warnings": ["mind the gap"]}
    await configure("validating", {"clientConfig": hook.client()})
    answer = await create_until(client, core, lambda answer: "Warning" in answer.headers)
    assert answer.headers["Warning"] == '299 - "mind the gap"'


async def test_a_webhook_that_cannot_be_asked_fails_closed_or_open(
    client: Client, core: str, hook: Hook, configure: Configure
) -> None:
    gone = {"url": "https://127.0.0.1:1/x", "caBundle": hook.authority}
    hook.respond = adding_label("seen")
    await configure("mutating", {"clientConfig": gone, "failurePolicy": "Ignore"}, {"clientConfig": hook.client()})
    await create_until(client, core, lambda answer: "seen" in labels(answer))
    name = await configure("mutating", {"clientConfig": gone, "failurePolicy": "Fail"})
    answer = await create_until(client, core, lambda answer: answer.status >= 400)
    answer.refused(
        500, f'Internal error occurred: failed calling webhook "h0.{name}": failed to call webhook: Post "https://127.0.0.1:1/x'
    )


async def test_a_webhook_that_takes_too_long_is_given_up(client: Client, core: str, tmp_path: Path, configure: Configure) -> None:
    """It accepts the connection and never says a word."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    files = pki.ensure(tmp_path / "slow")
    authority = base64.b64encode(files.ca.certificate.read_bytes()).decode()
    async with server:
        slow = {"url": f"https://127.0.0.1:{port}/", "caBundle": authority}
        await configure("validating", {"clientConfig": slow, "timeoutSeconds": 1, "failurePolicy": "Fail"})
        answer = await create_until(client, core, lambda answer: answer.status >= 400)
        answer.refused(500, "failed calling webhook")
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


async def test_a_webhook_with_another_authority_is_not_trusted(
    client: Client, core: str, tmp_path: Path, hook: Hook, configure: Configure
) -> None:
    other = base64.b64encode(pki.ensure(tmp_path / "other").ca.certificate.read_bytes()).decode()
    await configure("validating", {"clientConfig": {**hook.client(), "caBundle": other}})
    (await create_until(client, core, lambda answer: answer.status >= 400)).refused(500, "certificate")
    assert hook.asked == []


async def test_only_what_is_selected_is_asked_about(client: Client, core: str, hook: Hook, configure: Configure) -> None:
    hook.respond = adding_label("seen")
    conditions = [{"name": "not-this", "expression": "!has(object.data) || !('skip' in object.data)"}]
    selector = {"matchLabels": {"ask": "yes"}}
    await configure("mutating", {"clientConfig": hook.client(), "objectSelector": selector, "matchConditions": conditions})
    await create_until(client, core, lambda answer: "seen" in labels(answer), metadata={"labels": {"ask": "yes"}})
    for body in (
        {"metadata": {"generateName": "c-"}},
        {"metadata": {"generateName": "c-", "labels": {"ask": "yes"}}, "data": {"skip": "me"}},
    ):
        assert "seen" not in labels(await client.post(f"{core}/configmaps", body))
    assert "seen" not in labels(
        await client.post(f"{core}/secrets", {"metadata": {"generateName": "c-", "labels": {"ask": "yes"}}})
    )


async def test_a_webhook_is_asked_again_if_a_later_one_changed_the_object(
    client: Client, core: str, tmp_path: Path, hook: Hook, configure: Configure
) -> None:
    async with hook_server(tmp_path / "later", adding_label("later")) as later:
        hook.respond = adding_label("first")
        await configure(
            "mutating",
            {"clientConfig": hook.client(), "reinvocationPolicy": "IfNeeded"},
            {"clientConfig": later.client(), "reinvocationPolicy": "IfNeeded"},
        )
        await create_until(client, core, lambda answer: {"first", "later"} <= labels(answer).keys())
        hook.asked.clear()
        later.asked.clear()
        (await client.post(f"{core}/configmaps", {"metadata": {"generateName": "c-"}})).ok()
        assert [set(request["object"]["metadata"].get("labels") or ()) for request in hook.asked] == [set(), {"first", "later"}]
        assert len(later.asked) == 1


async def test_updates_and_deletions_show_what_was_there(client: Client, core: str, hook: Hook, configure: Configure) -> None:
    rules = [{"operations": ["UPDATE", "DELETE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["configmaps"]}]
    await configure("validating", {"clientConfig": hook.client(), "rules": rules})
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}, "data": {"n": "0"}})).ok()
    async with asyncio.timeout(20):
        number = 0
        while not hook.asked:
            number += 1
            (await client.merge_patch(f"{core}/configmaps/a", {"data": {"n": str(number)}})).ok()
            await asyncio.sleep(0.1)
    update = hook.asked[0]
    assert update["operation"] == "UPDATE" and update["name"] == "a"
    assert update["object"]["data"] == {"n": str(number)} and update["oldObject"]["data"] == {"n": str(number - 1)}
    (await client.delete(f"{core}/configmaps/a")).ok()
    deletion = hook.asked[-1]
    assert deletion["operation"] == "DELETE" and deletion["object"] is None and deletion["oldObject"]["data"] == {"n": str(number)}


async def test_a_service_leads_to_its_endpoints(own_client: Client, tmp_path: Path) -> None:
    """A real server goes through the Service's address, which needs a kube-proxy."""
    client = own_client
    namespace = "hooks"
    (await client.post("/api/v1/namespaces", {"metadata": {"name": namespace}})).ok()
    async with hook_server(tmp_path, adding_label("seen")) as hook:
        port = int(hook.url.rpartition(":")[2])
        spec = {"ports": [{"name": "https", "port": 443, "targetPort": 8443}]}
        (await client.post(f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": "hook"}, "spec": spec})).ok()
        service = {"name": "hook", "namespace": namespace, "path": "/x"}
        webhook = {
            "name": "by.service.example.com",
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "clientConfig": {"service": service, "caBundle": hook.authority},
        }
        path = f"{CONFIGURATIONS}/mutatingwebhookconfigurations"
        (await client.post(path, {"metadata": {"name": "by-service"}, "webhooks": [webhook]})).ok()
        try:
            maps = f"/api/v1/namespaces/{namespace}/configmaps"
            body = {"metadata": {"generateName": "c-"}}
            (await client.post(maps, body)).refused(500, 'no endpoints available for service "hook"')
            endpoints = {
                "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
                "addressType": "IPv4",
                "endpoints": [
                    {"addresses": ["127.0.0.9"], "conditions": {"ready": False}},
                    {"addresses": ["127.0.0.1"], "conditions": {"ready": True}},
                ],
                "ports": [{"name": "https", "port": port}],
            }
            slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
            (await client.post(slices, endpoints)).ok()
            assert "seen" in labels(await client.post(maps, body))
        finally:
            (await client.delete(f"{path}/by-service")).ok()
