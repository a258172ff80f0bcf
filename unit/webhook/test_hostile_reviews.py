"""Reviews of objects that are nothing like what they should be: a verdict, or the word that it cannot be read."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, DynamicVolumeClaim, LabelSelector, S3Config
from dynvol.api.core import Namespace
from dynvol.api.meta import ObjectMeta
from dynvol.api.providerclass import ClassSpec, StorageProviderClass
from dynvol.webhook.review import Malformed, decode, encode
from dynvol.webhook.reviewers import Reviewers
from dynvol.webhook.rules.verdict import Verdict
from unit.examples import examples

CLASS = StorageProviderClass(
    metadata=ObjectMeta(name="s3-sample"), spec=ClassSpec(provider="s3", parameters={names.ALLOWED_BUCKETS_PARAMETER: "a*"})
)
NEIGHBOUR = DynamicVolumeClaim(
    metadata=ObjectMeta(name="n", namespace="ns"),
    spec=ClaimSpec(mountpoint="/data", selector=LabelSelector(), s3_config=S3Config(bucket="abc")),
)
POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {
        "name": "p",
        "labels": {"a": "b"},
        "annotations": {
            names.CLASS_ANNOTATION: "s3-sample",
            names.ROOT_ANNOTATION: "/buckets",
            names.CONTAINERS_ANNOTATION: "app",
            names.POLICY_ANNOTATION: "shared",
        },
    },
    "spec": {
        "containers": [{"name": "app", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "initContainers": [{"name": "init"}],
        "volumes": [
            {"name": "v", "configMap": {"name": "c"}},
            {"name": "w", "csi": {"driver": names.DRIVER, "volumeAttributes": {"storageProviderClass": "other"}}},
        ],
    },
}
CLAIM: dict[str, Any] = {
    "kind": "DynamicVolumeClaim",
    "metadata": {"name": "c"},
    "spec": {
        "mountpoint": "/data",
        "storageProviderClass": "s3-sample",
        "s3Config": {"bucket": "abc", "endpoint": "http://s3", "prefix": "p", "region": "r", "pathStyle": True},
        "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]},
        "uid": 1,
        "umask": "0022",
    },
}
CLASSES: dict[str, Any] = {
    "kind": "StorageProviderClass",
    "metadata": {"name": "c"},
    "spec": {
        "provider": "s3",
        "parameters": {
            names.SECRET_NAME_PARAMETER: "s",
            names.SECRET_NAMESPACE_PARAMETER: "n",
            names.CPU_LIMIT_PARAMETER: "1",
            names.MEMORY_LIMIT_PARAMETER: "1Gi",
            names.MOUNTER_PARAMETER: "rclone",
            names.OPTIONS_PARAMETER: "transfers=1",
            names.ALLOWED_ENDPOINTS_PARAMETER: "http://*.a",
        },
    },
}


class Cluster:
    def classes(self) -> Mapping[str, StorageProviderClass]:
        return {"s3-sample": CLASS}

    def claims(self, namespace: str) -> Sequence[DynamicVolumeClaim]:
        return (NEIGHBOUR,)

    def namespace(self, name: str) -> Namespace | None:
        return None

    async def namespace_now(self, name: str) -> Namespace | None:
        return Namespace(
            metadata=ObjectMeta(name=name, labels={names.INJECT: "enabled"}, annotations={names.CLASS_ANNOTATION: "x"})
        )


def places(value: Any) -> list[tuple[Any, ...]]:
    """The way to every value within one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *way) for key, child in inner for way in places(child))]


def with_changes(whole: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    """`whole` with values put in; a place that an earlier change took away is left out."""
    made = {"it": copy.deepcopy(whole)}
    for way, value in changes:
        target: Any = made
        *path, last = ("it", *way)
        try:
            for part in path:
                target = target[part]
            target[last] = value
        except (KeyError, IndexError, TypeError):
            continue
    return made["it"]


texts = st.text(max_size=30) | st.sampled_from(
    [
        "",
        "/",
        "..",
        "-o",
        "a,b",
        "/proc",
        "s3-sample",
        "a,s3-sample",
        "\n",
        "x" * 5000,
        "1" * 40,
        "1e99",
        "9" * 5000,
        "0x1",
        "٣",
        "1Ki",
    ]
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def changed(whole: Any) -> st.SearchStrategy[Any]:
    change = st.tuples(st.sampled_from(places(whole)), values)
    return st.lists(change, min_size=1, max_size=4).map(lambda changes: with_changes(whole, changes))


def body(obj: Any) -> bytes:
    request = {"uid": "u", "operation": "CREATE", "namespace": "ns", "object": obj, "oldObject": None}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def verdict(path: str, review: bytes) -> Verdict | None:
    """None where the review cannot be read."""
    reviewer = getattr(Reviewers(Cluster()), path)
    try:
        found: Verdict = asyncio.run(reviewer(decode(review)))
    except Malformed as problem:
        assert len(str(problem)) < 1000
        return None
    answer = json.loads(encode(found, uid="u"))
    assert answer["response"]["allowed"] is found.allowed
    return found


@pytest.mark.parametrize(("path", "whole"), [("pod", POD), ("claim", CLAIM), ("provider_class", CLASSES)])
def test_the_objects_that_are_spoilt_below_are_good(path: str, whole: dict[str, Any]) -> None:
    good = with_changes(whole, [(("metadata", "annotations", names.CONTAINERS_ANNOTATION), "")])
    found = verdict(path, body(good))
    assert found is not None and found.allowed, found


@examples(100)
@given(changed(POD))
def test_any_pod_gets_a_verdict(obj: Any) -> None:
    verdict("pod", body(obj))


@examples(100)
@given(changed(CLAIM))
def test_any_claim_gets_a_verdict(obj: Any) -> None:
    verdict("claim", body(obj))


@examples(100)
@given(changed(CLASSES))
def test_any_class_gets_a_verdict(obj: Any) -> None:
    verdict("provider_class", body(obj))


@examples(100)
@given(st.binary(max_size=100), st.integers(0, 400), st.integers(0, 100))
def test_a_review_with_wrong_bytes_is_malformed_or_gets_a_verdict(noise: bytes, at: int, cut: int) -> None:
    whole = body(POD)
    verdict("pod", whole[:at] + noise + whole[at + cut :])


@pytest.mark.parametrize("path", ["pod", "claim", "provider_class"])
def test_a_review_nested_without_end_is_malformed(path: str) -> None:
    deep = body("@").replace(b'"@"', b'{"metadata":' * 50_000 + b"{}" + b"}" * 50_000)
    assert verdict(path, deep) is None
