"""Server-side apply: fields have owners, and owners get along or are told that they do not."""

from __future__ import annotations

import asyncio

import pytest

from .conftest import Client, Object


def config(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(*containers: Object, **spec: object) -> Object:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": list(containers)}}
    body = {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": body}


@pytest.fixture
def deployments(namespace: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments"


def owners(body: Object) -> dict[tuple[str, str], Object]:
    return {(entry["manager"], entry["operation"]): entry["fieldsV1"] for entry in body["metadata"]["managedFields"]}


async def test_an_apply_makes_what_is_not_there_and_owns_it(client: Client, core: str) -> None:
    answer = await client.apply(f"{core}/configmaps/a", config("a", k="v"), manager="one")
    assert answer.status == 201
    assert owners(answer.body) == {("one", "Apply"): {"f:data": {"f:k": {}}}}
    again = await client.apply(f"{core}/configmaps/a", config("a", k="v"), manager="one")
    assert again.status == 200
    assert again.body["metadata"]["resourceVersion"] == answer.body["metadata"]["resourceVersion"]


async def test_what_is_said_no_longer_is_removed(client: Client, core: str) -> None:
    (await client.apply(f"{core}/configmaps/a", config("a", k="v", l="w"), manager="one")).ok()
    after = (await client.apply(f"{core}/configmaps/a", config("a", k="v"), manager="one")).ok()
    assert after["data"] == {"k": "v"}


async def test_what_another_owns_too_stays(client: Client, core: str) -> None:
    (await client.apply(f"{core}/configmaps/a", config("a", k="v", l="w"), manager="one")).ok()
    (await client.apply(f"{core}/configmaps/a", config("a", l="w"), manager="two")).ok()
    after = (await client.apply(f"{core}/configmaps/a", config("a", k="v"), manager="one")).ok()
    assert after["data"] == {"k": "v", "l": "w"}
    assert owners(after) == {("one", "Apply"): {"f:data": {"f:k": {}}}, ("two", "Apply"): {"f:data": {"f:l": {}}}}


async def test_another_value_of_anothers_field_is_a_conflict(client: Client, core: str) -> None:
    (await client.apply(f"{core}/configmaps/a", config("a", k="v"), manager="one")).ok()
    refusal = (await client.apply(f"{core}/configmaps/a", config("a", k="w"), manager="two")).refused(
        409, 'Apply failed with 1 conflict: conflict with "one": .data.k'
    )
    assert refusal["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.k"}
    ]


async def test_force_takes_the_field_over(client: Client, core: str) -> None:
    (await client.apply(f"{core}/configmaps/a", config("a", k="v"), manager="one")).ok()
    after = (await client.apply(f"{core}/configmaps/a", config("a", k="w"), manager="two", force=True)).ok()
    assert after["data"] == {"k": "w"}
    assert list(owners(after)) == [("two", "Apply")]


async def test_an_update_owns_what_it_changed(client: Client, core: str) -> None:
    (await client.apply(f"{core}/configmaps/a", config("a", k="v", l="w"), manager="one")).ok()
    (await client.merge_patch(f"{core}/configmaps/a", {"data": {"k": "changed"}}, fieldManager="hand")).ok()
    found = (await client.get(f"{core}/configmaps/a")).ok()
    assert owners(found) == {
        ("one", "Apply"): {"f:data": {"f:l": {}}},
        ("hand", "Update"): {"f:data": {"f:k": {}}},
    }
    (await client.apply(f"{core}/configmaps/a", config("a", k="v", l="w"), manager="one")).refused(
        409, 'conflict with "hand" using v1: .data.k'
    )


async def test_a_created_object_is_owned_by_its_maker(client: Client, core: str) -> None:
    made = (await client.post(f"{core}/configmaps", config("a", k="v"), fieldManager="maker")).ok()
    assert owners(made) == {("maker", "Update"): {"f:data": {".": {}, "f:k": {}}}}


async def test_containers_merge_by_name(client: Client, deployments: str) -> None:
    first = {"name": "a", "image": "one", "ports": [{"containerPort": 80}]}
    (await client.apply(f"{deployments}/d", deployment(first), manager="one")).ok()
    second = {"name": "b", "image": "two"}
    after = (await client.apply(f"{deployments}/d", deployment(second, replicas=3), manager="two")).ok()
    found = after["spec"]["template"]["spec"]["containers"]
    assert [(c["name"], c["image"]) for c in found] == [("a", "one"), ("b", "two")]
    fields = owners(after)["two", "Apply"]["f:spec"]["f:template"]["f:spec"]["f:containers"]
    assert fields == {'k:{"name":"b"}': {".": {}, "f:image": {}, "f:name": {}}}
    ports = owners(after)["one", "Apply"]["f:spec"]["f:template"]["f:spec"]["f:containers"]['k:{"name":"a"}']["f:ports"]
    assert ports == {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}}
    gone = (await client.apply(f"{deployments}/d", deployment(replicas=3), manager="two")).ok()
    assert [c["name"] for c in gone["spec"]["template"]["spec"]["containers"]] == ["a"]


async def test_a_conflict_names_the_element(client: Client, deployments: str) -> None:
    (await client.apply(f"{deployments}/d", deployment({"name": "a", "image": "one"}), manager="one")).ok()
    (await client.apply(f"{deployments}/d", deployment({"name": "a", "image": "two"}), manager="two")).refused(
        409, '.spec.template.spec.containers[name="a"].image'
    )


async def test_an_element_that_is_named_twice_is_refused(client: Client, deployments: str) -> None:
    twice = deployment({"name": "a", "image": "one"}, {"name": "a", "image": "two"})
    answer = await client.apply(f"{deployments}/d", twice, manager="one")
    assert answer.status == 500
    assert 'duplicate entries for key [name="a"]' in answer.body["message"]


async def test_a_field_that_the_schema_lacks_is_refused(client: Client, core: str) -> None:
    answer = await client.apply(f"{core}/configmaps/a", config("a") | {"nonsense": 1}, manager="one")
    assert answer.status == 500
    assert ".nonsense: field not declared in schema" in answer.body["message"]


async def test_finalizers_are_a_set(client: Client, core: str) -> None:
    def with_finalizers(*names: str) -> Object:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": list(names)}}

    (await client.apply(f"{core}/configmaps/a", with_finalizers("x.y/1"), manager="one")).ok()
    both = (await client.apply(f"{core}/configmaps/a", with_finalizers("x.y/2"), manager="two")).ok()
    assert both["metadata"]["finalizers"] == ["x.y/1", "x.y/2"]
    one = (await client.apply(f"{core}/configmaps/a", with_finalizers(), manager="one")).ok()
    assert one["metadata"]["finalizers"] == ["x.y/2"]
    (await client.apply(f"{core}/configmaps/a", with_finalizers(), manager="two")).ok()


async def test_an_apply_of_a_stale_version_is_a_conflict(client: Client, core: str) -> None:
    (await client.apply(f"{core}/configmaps/a", config("a", k="v"), manager="one")).ok()
    stale = config("a", k="w")
    stale["metadata"]["resourceVersion"] = "1"
    (await client.apply(f"{core}/configmaps/a", stale, manager="one")).refused(409, "the object has been modified")


async def test_appliers_that_race_all_win(client: Client, core: str) -> None:
    (await client.post(f"{core}/configmaps", config("a"))).ok()
    applies = (client.apply(f"{core}/configmaps/a", config("a", **{f"k{n}": "v"}), manager=f"m{n}") for n in range(15))
    for answer in await asyncio.gather(*applies):
        answer.ok()
    assert len((await client.get(f"{core}/configmaps/a")).ok()["data"]) == 15
