"""The patch types, on a server and on values."""

from __future__ import annotations

import pytest

from e2e.cluster.apiserver.builtin_types import derive
from e2e.cluster.apiserver.patch import json_patch, merge_patch, strategic_merge
from e2e.cluster.apiserver.shape import Shape
from e2e.cluster.apiserver.status import ApiError

from .conftest import Client, Object, pod


async def test_a_merge_patch_sets_and_removes(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}, "data": {"keep": "1", "drop": "2"}})).ok()
    after = (await client.merge_patch(f"{core}/configmaps/a", {"data": {"drop": None, "new": "3"}})).ok()
    assert after["data"] == {"keep": "1", "new": "3"}


async def test_a_field_that_is_not_there_is_null_to_the_test_of_a_json_patch(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    operations: list[Object] = [{"op": "test", "path": "/data", "value": None}, {"op": "add", "path": "/data", "value": {"k": "1"}}]
    assert (await client.json_patch(f"{core}/configmaps/a", *operations)).ok()["data"] == {"k": "1"}
    (await client.json_patch(f"{core}/configmaps/a", *operations)).refused(422)


async def test_a_json_patch_is_refused_whole_if_its_test_fails(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}, "data": {"k": "1"}})).ok()
    operations = [
        {"op": "replace", "path": "/data/k", "value": "2"},
        {"op": "test", "path": "/data/k", "value": "1"},
    ]
    refusal = (await client.json_patch(f"{core}/configmaps/a", *operations)).refused(422)
    assert refusal["message"] == "the server rejected our request due to an error in our request"
    assert (await client.get(f"{core}/configmaps/a")).ok()["data"] == {"k": "1"}
    (await client.json_patch(f"{core}/configmaps/a", *reversed(operations))).ok()
    assert (await client.get(f"{core}/configmaps/a")).ok()["data"] == {"k": "2"}


async def test_a_patch_can_insist_on_a_version(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    stale = {"metadata": {"resourceVersion": "1"}, "data": {"k": "v"}}
    (await client.merge_patch(f"{core}/configmaps/a", stale)).refused(409, "the object has been modified")


async def test_a_strategic_patch_merges_elements_by_their_key(client: Client, namespace: str) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod("x")["spec"]}
    (
        await client.post(
            path, {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}
        )
    ).ok()
    containers = [{"name": "main", "env": [{"name": "K", "value": "v"}]}, {"name": "side", "image": "other"}]
    change = {"spec": {"template": {"spec": {"containers": containers}}}}
    after = (await client.strategic_patch(f"{path}/d", change)).ok()["spec"]["template"]["spec"]["containers"]
    assert {c["name"]: c["image"] for c in after} == {"main": "busybox", "side": "other"}
    gone = {"spec": {"template": {"spec": {"containers": [{"name": "side", "$patch": "delete"}]}}}}
    after = (await client.strategic_patch(f"{path}/d", gone)).ok()["spec"]["template"]["spec"]["containers"]
    assert [(c["name"], c["env"]) for c in after] == [("main", [{"name": "K", "value": "v"}])]


async def test_an_unknown_patch_type_is_refused(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "a"}})).ok()
    assert (await client.call("PATCH", f"{core}/configmaps/a", {}, kind="text/plain")).status == 415


@pytest.mark.parametrize(
    ("operation", "after"),
    [
        ({"op": "add", "path": "/l/1", "value": 9}, {"l": [1, 9, 2], "m": {"x/y": 1}}),
        ({"op": "add", "path": "/l/-", "value": 9}, {"l": [1, 2, 9], "m": {"x/y": 1}}),
        ({"op": "remove", "path": "/l/0"}, {"l": [2], "m": {"x/y": 1}}),
        ({"op": "replace", "path": "/m/x~1y", "value": 2}, {"l": [1, 2], "m": {"x/y": 2}}),
        ({"op": "move", "from": "/l/0", "path": "/first"}, {"l": [2], "m": {"x/y": 1}, "first": 1}),
        ({"op": "copy", "from": "/m", "path": "/n"}, {"l": [1, 2], "m": {"x/y": 1}, "n": {"x/y": 1}}),
        ({"op": "test", "path": "/l", "value": [1, 2]}, {"l": [1, 2], "m": {"x/y": 1}}),
    ],
)
def test_json_patch_operations(operation: Object, after: Object) -> None:
    before = {"l": [1, 2], "m": {"x/y": 1}}
    assert json_patch(before, [operation]) == after
    assert before == {"l": [1, 2], "m": {"x/y": 1}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/l/1", "value": 1},
        {"op": "replace", "path": "/none/x", "value": 1},
        {"op": "add", "path": "/l/7", "value": 1},
        {"op": "test", "path": "/t", "value": 1},
        {"op": "what", "path": "/l"},
    ],
)
def test_json_patch_refuses(operation: Object) -> None:
    with pytest.raises(ApiError):
        json_patch({"l": [1], "t": True}, [operation])


def test_merge_patch_of_something_that_is_no_object() -> None:
    assert merge_patch({"a": [1]}, {"a": {"b": None, "c": 1}}) == {"a": {"c": 1}}


@pytest.fixture(scope="module")
def pod_shape() -> Shape:
    definitions = derive()
    return Shape(definitions["V1Pod"], definitions)


def test_strategic_directives(pod_shape: Shape) -> None:
    old = {
        "metadata": {"finalizers": ["a", "b"]},
        "spec": {
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/"}}],
            "tolerations": [{"key": "t"}],
        },
    }
    change = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]},
        "spec": {
            "$setElementOrder/volumes": [{"name": "w"}, {"name": "v"}],
            "volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}],
            "tolerations": [{"key": "u"}],
        },
    }
    assert strategic_merge(old, change, pod_shape) == {
        "metadata": {"finalizers": ["b"]},
        "spec": {
            "volumes": [{"name": "w", "hostPath": {"path": "/"}}, {"name": "v", "configMap": {"name": "c"}}],
            "tolerations": [{"key": "u"}],
        },
    }


def test_strategic_replace_and_delete(pod_shape: Shape) -> None:
    old = {"metadata": {"labels": {"a": "b"}}, "spec": {"securityContext": {"runAsUser": 1}, "containers": [{"name": "x"}]}}
    change = {
        "metadata": {"labels": {"$patch": "replace", "c": "d"}},
        "spec": {"securityContext": {"$patch": "delete"}, "containers": [{"$patch": "replace"}, {"name": "y"}]},
    }
    assert strategic_merge(old, change, pod_shape) == {"metadata": {"labels": {"c": "d"}}, "spec": {"containers": [{"name": "y"}]}}
