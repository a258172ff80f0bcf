"""The real server over real TLS, called as an API server calls it."""

from __future__ import annotations

import asyncio
import base64
import datetime
import io
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Namespace
from dynvol.api.meta import ObjectMeta
from dynvol.api.providerclass import ClassSpec, StorageProviderClass
from dynvol.webhook.certificates import issue, server_context, take_up
from dynvol.webhook.review import AdmissionRequest
from dynvol.webhook.reviewers import Reviewers
from dynvol.webhook.rules.verdict import Verdict
from dynvol.webhook.server import LARGEST_BODY, Reviewer, application, serving

S3 = StorageProviderClass(metadata=ObjectMeta(name="s3-sample"), spec=ClassSpec(provider="s3"))
ASKED = {names.CLASS_ANNOTATION: "s3-sample", names.ROOT_ANNOTATION: "/buckets"}


@dataclass
class Cluster:
    """Implements ClusterView: a cache, and what the API server has."""

    cached: dict[str, Namespace] = field(default_factory=dict)
    actual: dict[str, Namespace] = field(default_factory=dict)

    def classes(self) -> dict[str, StorageProviderClass]:
        return {"s3-sample": S3}

    def claims(self, namespace: str) -> Sequence[DynamicVolumeClaim]:
        return ()

    def namespace(self, name: str) -> Namespace | None:
        return self.cached.get(name)

    async def namespace_now(self, name: str) -> Namespace | None:
        return self.actual.get(name)


class Api:
    """Calls a webhook as an API server does. Every call is a connection of its own, so it meets the certificate of the moment."""

    def __init__(self, port: int, bundle: bytes) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.bundle = bundle

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        tls = ssl.create_default_context(cadata=self.bundle.decode())
        connector = aiohttp.TCPConnector(ssl=tls, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(self.url + path, data=io.BytesIO(body)) as answer,
        ):
            return answer.status, await answer.read()

    async def review(self, path: str, obj: dict[str, Any], *, name: str = "x") -> dict[str, Any]:
        status, body = await self.post(path, admission_review(obj, name=name))
        assert status == 200, body
        response: dict[str, Any] = json.loads(body)["response"]
        assert response["uid"] == "review-uid"
        return response


def admission_review(obj: dict[str, Any], *, name: str = "x") -> bytes:
    request = {"uid": "review-uid", "operation": "CREATE", "namespace": "ns", "name": name, "object": obj, "oldObject": None}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def pod(**annotations: str) -> dict[str, Any]:
    metadata = {"creationTimestamp": None, "annotations": annotations}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "app"}]}, "status": {}}


def speaking(name: str) -> Namespace:
    return Namespace(metadata=ObjectMeta(name=name, labels={names.INJECT: "enabled"}, annotations=ASKED))


@asynccontextmanager
async def api(routes: Mapping[str, Reviewer], *, deadline: float = 4.0) -> AsyncIterator[Api]:
    certificate = issue(["127.0.0.1"], now=datetime.datetime.now(datetime.UTC))
    context = server_context()
    take_up(context, certificate)
    async with serving(application(routes, deadline=deadline), host="127.0.0.1", port=0, context=context) as port:
        yield Api(port, certificate.authorities)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def webhook(cluster: Cluster) -> AsyncIterator[Api]:
    reviewers = Reviewers(cluster)
    routes = {
        "/mutate-pods": reviewers.pod,
        "/mutate-claims": reviewers.new_claim,
        "/validate-claims": reviewers.claim,
        "/validate-classes": reviewers.provider_class,
    }
    async with api(routes) as running:
        yield running


@pytest.mark.parametrize(
    ("finalizers", "added"),
    [
        (None, [("/metadata/finalizers", [names.CLAIM_FINALIZER])]),
        (["theirs"], [("/metadata/finalizers/-", names.CLAIM_FINALIZER)]),
        ([names.CLAIM_FINALIZER], []),
    ],
)
async def test_a_new_claim_gets_the_finalizer_that_holds_it(
    webhook: Api, finalizers: list[str] | None, added: list[tuple[str, object]]
) -> None:
    metadata = {"name": "data"} | ({"finalizers": finalizers} if finalizers else {})
    response = await webhook.review("/mutate-claims", {"metadata": metadata, "spec": {"mountpoint": "/data", "selector": {}}})
    assert response["allowed"]
    patch = json.loads(base64.b64decode(response.get("patch", "W10=")))
    assert [(step["path"], step["value"]) for step in patch] == added


async def test_an_annotated_pod_comes_back_with_a_json_patch(webhook: Api) -> None:
    response = await webhook.review("/mutate-pods", pod(**ASKED))
    assert response["allowed"]
    assert response["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(response["patch"]))
    assert [(o["op"], o["path"]) for o in patch] == [
        ("add", "/spec/volumes"),
        ("add", "/spec/containers/0/volumeMounts"),
        ("add", "/metadata/labels"),
    ]


async def test_a_denial_carries_the_sentence_and_no_patch(webhook: Api) -> None:
    response = await webhook.review("/mutate-pods", pod(**{names.CLASS_ANNOTATION: "a"}))
    assert not response["allowed"]
    assert names.ROOT_ANNOTATION in response["status"]["message"]
    assert "patch" not in response


async def test_a_silent_pod_gets_what_its_namespace_says(webhook: Api, cluster: Cluster) -> None:
    cluster.cached["ns"] = speaking("ns")
    assert (await webhook.review("/mutate-pods", pod()))["patch"]


async def test_a_namespace_that_the_cache_does_not_know_yet_is_asked_for(webhook: Api, cluster: Cluster) -> None:
    cluster.cached["ns"] = Namespace(metadata=ObjectMeta(name="ns"))
    cluster.actual["ns"] = speaking("ns")
    assert (await webhook.review("/mutate-pods", pod()))["patch"]


async def test_the_annotations_of_a_namespace_without_the_label_are_no_defaults(webhook: Api, cluster: Cluster) -> None:
    cluster.cached["ns"] = cluster.actual["ns"] = Namespace(metadata=ObjectMeta(name="ns", annotations=ASKED))
    assert "patch" not in await webhook.review("/mutate-pods", pod())


async def test_claims_and_classes_are_validated(webhook: Api) -> None:
    claim = {"metadata": {"name": "c"}, "spec": {"mountpoint": "/d", "selector": {}, "s3Config": {"bucket": "Bad_Bucket"}}}
    assert not (await webhook.review("/validate-claims", claim))["allowed"]
    claim["spec"]["s3Config"]["bucket"] = "good-bucket"  # type: ignore[index]
    assert (await webhook.review("/validate-claims", claim))["allowed"]
    bad_class = {"metadata": {"name": "c"}, "spec": {"provider": "s3", "parameters": {names.SECRET_NAMESPACE_PARAMETER: "n"}}}
    assert "storage-provider-secret-name" in (await webhook.review("/validate-classes", bad_class))["status"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}',
        b'{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u"}}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","object":{"spec":{"containers":1}}}}',
        b"\xff\xfe",
    ],
)
async def test_what_is_no_review_is_an_error_and_no_verdict(webhook: Api, body: bytes) -> None:
    status, _ = await webhook.post("/mutate-pods", body)
    assert status == 400


async def test_a_review_of_the_largest_objects_fits(webhook: Api) -> None:
    big = pod(**ASKED, padding="x" * (3 * 1024 * 1024))
    assert (await webhook.review("/mutate-pods", big))["allowed"]


async def test_a_body_beyond_all_reason_is_refused(webhook: Api) -> None:
    status, _ = await webhook.post("/mutate-pods", b"x" * (LARGEST_BODY + 1))
    assert status == 413


async def test_a_review_that_takes_too_long_is_an_error_and_no_verdict() -> None:
    async def stuck(_: AdmissionRequest) -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError

    async with api({"/stuck": stuck}, deadline=0.05) as running:
        assert (await running.post("/stuck", admission_review({})))[0] == 504


async def test_calls_in_flight_are_answered_when_the_server_closes() -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(_: AdmissionRequest) -> Verdict:
        entered.set()
        await go.wait()
        return Verdict()

    async with api({"/slow": slow}) as running:
        call = asyncio.create_task(running.review("/slow", {}), name="call")
        await entered.wait()
        asyncio.get_running_loop().call_later(0.05, go.set)
    assert (await call)["allowed"]


async def test_no_call_fails_while_the_certificate_is_replaced_again_and_again() -> None:
    async def fine(_: AdmissionRequest) -> Verdict:
        return Verdict()

    now = datetime.datetime.now(datetime.UTC)
    certificate, context = issue(["127.0.0.1"], now=now), server_context()
    take_up(context, certificate)
    async with serving(application({"/fine": fine}), host="127.0.0.1", port=0, context=context) as port:
        client = Api(port, certificate.authorities)
        done = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            callers = [tasks.create_task(_call_until(done, client.review), name=f"caller {n}") for n in range(4)]
            for _ in range(5):
                certificate = issue(["127.0.0.1"], now=now, before=certificate.authorities)
                client.bundle = certificate.authorities
                await client.review("/fine", {})
                take_up(context, certificate)
                await client.review("/fine", {})
            done.set()
    assert all(caller.result() > 0 for caller in callers)


async def _call_until(done: asyncio.Event, review: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]) -> int:
    calls = 0
    while not done.is_set():
        assert (await review("/fine", {}))["allowed"]
        calls += 1
    return calls
