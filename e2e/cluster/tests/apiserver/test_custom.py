"""Custom resources: served at once, pruned, defaulted, and held to their schemas and rules in the real server's words."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from .conftest import Client, Ground, Object

_numbers = itertools.count(1)

SPEC: Object = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "color": {"type": "string", "enum": ["red", "green"], "default": "red"},
        "code": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5, "minLength": 2},
        "tags": {"type": "array", "maxItems": 2, "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "default": 1}},
            },
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "port": {"x-kubernetes-int-or-string": True},
        "maybe": {"type": "string", "nullable": True},
        "since": {"type": "string", "format": "date-time"},
        "first": {"type": "object", "properties": {"a": {"type": "string"}}},
        "second": {"type": "object", "properties": {"a": {"type": "string"}}},
        "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "cannot be changed"}]},
    },
    "x-kubernetes-validations": [
        {"rule": "!(has(self.first) && has(self.second))", "message": "first and second do not go together"},
        {
            "rule": "!has(self.code) || self.code != 'never'",
            "messageExpression": "'the code ' + self.code + ' is not for use'",
            "fieldPath": ".code",
            "reason": "FieldValueForbidden",
        },
    ],
}
STATUS: Object = {
    "type": "object",
    "properties": {
        "ready": {"type": "string"},
        "pods": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
            "items": {
                "type": "object",
                "required": ["uid"],
                "properties": {"uid": {"type": "string"}, "phase": {"type": "string"}, "node": {"type": "string"}},
            },
        },
    },
}


def definition(group: str, *, scope: str = "Namespaced", **extra: Any) -> Object:
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": SPEC, "status": STATUS}}
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "First", "type": "string", "jsonPath": '.status.pods[?(@.uid=="u1")].phase', "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        **extra,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [version],
        },
    }


DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    """Some things take a real server a moment, of which it does not tell."""
    async with asyncio.timeout(20):
        while not await what():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def define(client: Client, body: Object) -> None:
    """And wait until it is served, which takes a real server a moment."""
    (await client.post(DEFINITIONS, body)).ok()

    async def is_served() -> bool:
        found = (await client.get(f"{DEFINITIONS}/{body['metadata']['name']}")).ok()
        conditions = {c["type"]: c["status"] for c in found["status"].get("conditions") or ()}
        path = f"/apis/{body['spec']['group']}/v1/widgets"
        return conditions.get("Established") == "True" and (await client.get(path)).status == 200

    await until(is_served)


_shared: dict[str, str] = {}


@pytest.fixture
async def group(client: Client, ground: Ground) -> str:
    """Defined once on each server, for tests that leave the definition as it is."""
    if ground.url not in _shared:
        name = f"g{next(_numbers)}.example.com"
        await define(client, definition(name))
        _shared[ground.url] = name
    return _shared[ground.url]


@pytest.fixture
def widgets(group: str, namespace: str) -> str:
    return f"/apis/{group}/v1/namespaces/{namespace}/widgets"


def widget(group: str, name: str = "w", **spec: Any) -> Object:
    return {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1, **spec}}


async def test_what_is_defined_is_served(client: Client, group: str, widgets: str) -> None:
    made = (await client.post(widgets, widget(group))).ok()
    assert made["spec"] == {"size": 1, "color": "red"} and made["metadata"]["generation"] == 1
    assert (await client.get(widgets)).ok()["kind"] == "WidgetList"
    served = (await client.get(f"/apis/{group}/v1")).ok()["resources"]
    assert {entry["name"] for entry in served} == {"widgets", "widgets/status"}
    found = (await client.get(f"{DEFINITIONS}/widgets.{group}")).ok()
    assert found["status"]["storedVersions"] == ["v1"]
    assert {c["type"]: c["status"] for c in found["status"]["conditions"]} == {"NamesAccepted": "True", "Established": "True"}
    assert found["status"]["acceptedNames"]["listKind"] == "WidgetList"


async def test_unknown_fields_are_pruned_and_said(client: Client, group: str, widgets: str) -> None:
    body = widget(group, nonsense=1, parts=[{"name": "a", "more": 2}], any={"kept": {"as": "is"}}, labels={"free": "text"})
    answer = await client.post(widgets, body, fieldValidation="Warn")
    assert answer.ok()["spec"] == {
        "size": 1,
        "color": "red",
        "parts": [{"name": "a", "weight": 1}],
        "any": {"kept": {"as": "is"}},
        "labels": {"free": "text"},
    }
    assert 'unknown field \\"spec.nonsense\\"' in answer.headers["Warning"]
    strict = await client.post(widgets, widget(group, "x", parts=[{"name": "a", "more": 2}]), fieldValidation="Strict")
    strict.refused(
        400, 'Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown field "spec.parts[0].more"'
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"size": "x"}, 'spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"'),
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ({"size": 11}, "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"),
        ({"size": None}, "spec.size: Required value"),
        ({"color": "blue"}, 'spec.color: Unsupported value: "blue": supported values: "red", "green"'),
        ({"code": "A1"}, "spec.code: Invalid value: \"A1\": spec.code in body should match '^[a-z]+$'"),
        ({"code": "abcdef"}, "spec.code: Too long: may not be more than 5 bytes"),
        ({"code": "a"}, 'spec.code: Invalid value: "a": spec.code in body should be at least 2 chars long'),
        ({"tags": ["a", "b", "c"]}, "spec.tags: Too many: 3: must have at most 2 items"),
        ({"tags": ["a", "a"]}, 'spec.tags[1]: Duplicate value: "a"'),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, 'spec.parts[1]: Duplicate value: {"name":"a"}'),
        ({"parts": [{"weight": 2}]}, "spec.parts[0].name: Required value"),
        ({"labels": {"k": 1}}, 'spec.labels.k: Invalid value: "integer": spec.labels.k in body must be of type string: "integer"'),
        ({"port": True}, 'spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean"'),
        (
            {"since": "yesterday"},
            'spec.since: Invalid value: "yesterday": spec.since in body must be of type date-time: "yesterday"',
        ),
        ({"first": {}, "second": {}}, "spec: Invalid value: first and second do not go together"),
        ({"code": "never"}, "spec.code: Forbidden: the code never is not for use"),
    ],
)
async def test_a_bad_value_is_explained(client: Client, group: str, widgets: str, spec: Object, message: str) -> None:
    refusal = (await client.post(widgets, widget(group, **spec))).refused(422, f'Widget.{group} "w" is invalid: ')
    causes = [f"{cause['field']}: {cause['message']}" for cause in refusal["details"]["causes"]]
    assert message in causes, causes


async def test_null_is_a_value_where_it_is_allowed(client: Client, group: str, widgets: str) -> None:
    made = (await client.post(widgets, widget(group, maybe=None, color=None))).ok()
    assert made["spec"] == {"size": 1, "color": "red", "maybe": None}


async def test_rules_are_not_run_on_what_is_malformed(client: Client, group: str, widgets: str) -> None:
    answer = await client.post(widgets, widget(group, size="x", first={}, second={}))
    refusal = answer.refused(422, "some validation rules were not checked because the object was invalid")
    assert "do not go together" not in refusal["message"]


async def test_a_transition_is_ruled_only_where_there_is_one(client: Client, group: str, widgets: str) -> None:
    (await client.post(widgets, widget(group, fixed="a"))).ok()
    (await client.merge_patch(f"{widgets}/w", {"spec": {"fixed": "b"}})).refused(
        422, 'spec.fixed: Invalid value: "b": cannot be changed'
    )
    (await client.merge_patch(f"{widgets}/w", {"spec": {"size": 2}})).ok()


async def test_an_update_names_its_version(client: Client, group: str, widgets: str) -> None:
    (await client.post(widgets, widget(group))).ok()
    (await client.put(f"{widgets}/w", widget(group, size=2))).refused(
        422, "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    )


async def test_status_is_apart_and_grows_no_generation(client: Client, group: str, widgets: str) -> None:
    made = (await client.post(widgets, {**widget(group), "status": {"ready": "yes"}})).ok()
    assert "status" not in made
    body = {**made, "spec": {"size": 9}, "status": {"ready": "yes"}}
    after = (await client.put(f"{widgets}/w/status", body)).ok()
    assert after["status"] == {"ready": "yes"} and after["spec"]["size"] == 1 and after["metadata"]["generation"] == 1
    changed = (await client.merge_patch(f"{widgets}/w", {"spec": {"size": 2}, "status": {"ready": "no"}})).ok()
    assert changed["status"] == {"ready": "yes"} and changed["metadata"]["generation"] == 2


async def test_each_node_applies_its_own_entries_of_the_status(client: Client, group: str, widgets: str) -> None:
    (await client.post(widgets, widget(group))).ok()

    def entries(*uids: str, phase: str = "Mounted") -> Object:
        body = widget(group) | {"status": {"pods": [{"uid": uid, "phase": phase} for uid in uids]}}
        del body["spec"]
        return body

    async def apply(node: str, body: Object, *, force: bool = False) -> Object:
        return dict((await client.apply(f"{widgets}/w/status", body, manager=node, force=force)).ok())

    def seen(body: Object) -> dict[str, str]:
        return {entry["uid"]: entry["phase"] for entry in body["status"]["pods"]}

    await apply("n1", entries("u1", "u2"))
    both = await apply("n2", entries("u3"))
    assert seen(both) == {"u1": "Mounted", "u2": "Mounted", "u3": "Mounted"}
    assert {(e["manager"], e.get("subresource")) for e in both["metadata"]["managedFields"] if e["operation"] == "Apply"} == {
        ("n1", "status"),
        ("n2", "status"),
    }
    assert seen(await apply("n1", entries("u1", phase="Failed"))) == {"u1": "Failed", "u3": "Mounted"}
    refusal = (await client.apply(f"{widgets}/w/status", entries("u3", phase="Lost"), manager="n1")).refused(409, "conflict")
    assert refusal["details"]["causes"][0]["field"] == '.status.pods[uid="u3"].phase'
    assert seen(await apply("n2", entries())) == {"u1": "Failed"}
    last = await apply("n1", entries())
    assert "status" not in last


async def test_a_patch_of_the_status_takes_no_notice_of_another_uid(client: Client, group: str, widgets: str) -> None:
    """So it is no guard against an object that was made anew; an update is."""
    made = (await client.post(widgets, widget(group))).ok()
    other = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w", "uid": "another"}}
    merged = (await client.merge_patch(f"{widgets}/w/status", {**other, "status": {"ready": "merged"}})).ok()
    applied = (await client.apply(f"{widgets}/w/status", {**other, "status": {"ready": "applied"}}, manager="m", force=True)).ok()
    assert merged["metadata"]["uid"] == applied["metadata"]["uid"] == made["metadata"]["uid"]
    assert applied["status"] == {"ready": "applied"}
    body = {**applied, "metadata": {**applied["metadata"], "uid": "another"}}
    (await client.put(f"{widgets}/w/status", body)).refused(409, "UID in precondition: another")
    (await client.merge_patch(f"{widgets}/w", {"metadata": {"uid": "another"}})).refused(422, "metadata.uid: Invalid value")


async def test_many_nodes_apply_at_once(client: Client, group: str, widgets: str) -> None:
    (await client.post(widgets, widget(group))).ok()
    body = {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": "w"}}
    applies = (
        client.apply(f"{widgets}/w/status", body | {"status": {"pods": [{"uid": f"u{n}", "node": f"n{n}"}]}}, manager=f"n{n}")
        for n in range(12)
    )
    for answer in await asyncio.gather(*applies):
        answer.ok()
    found = (await client.get(f"{widgets}/w")).ok()
    assert {entry["uid"] for entry in found["status"]["pods"]} == {f"u{n}" for n in range(12)}


async def test_an_apply_with_a_field_that_the_schema_lacks_is_refused(client: Client, group: str, widgets: str) -> None:
    answer = await client.apply(f"{widgets}/w", widget(group, nonsense=1), manager="one")
    assert answer.status == 500
    assert "failed to create typed patch object" in answer.body["message"]
    assert ".spec.nonsense: field not declared in schema" in answer.body["message"]


async def test_what_was_wrong_before_is_not_held_against_an_update(client: Client, namespace: str) -> None:
    group = f"g{next(_numbers)}.example.com"
    body = definition(group)
    await define(client, body)
    widgets = f"/apis/{group}/v1/namespaces/{namespace}/widgets"
    (await client.post(widgets, widget(group, code="ab", size=3))).ok()
    tighter = {
        "op": "replace",
        "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/code/pattern",
        "value": "^z",
    }
    (await client.json_patch(f"{DEFINITIONS}/widgets.{group}", tighter)).ok()

    async def is_tighter() -> bool:
        return (await client.post(widgets, widget(group, "x", code="ab"), dryRun="All")).status == 422

    await until(is_tighter)
    (await client.merge_patch(f"{widgets}/w", {"spec": {"size": 4}})).ok()
    (await client.merge_patch(f"{widgets}/w", {"spec": {"code": "cd"}})).refused(422, "should match '^z'")


async def test_a_deleted_definition_takes_its_objects_along(client: Client, namespace: str) -> None:
    group = f"g{next(_numbers)}.example.com"
    await define(client, definition(group))
    widgets = f"/apis/{group}/v1/namespaces/{namespace}/widgets"
    held = widget(group)
    held["metadata"]["finalizers"] = ["example.com/hold"]
    (await client.post(widgets, held)).ok()
    (await client.delete(f"{DEFINITIONS}/widgets.{group}")).ok()

    async def is_going() -> bool:
        return "deletionTimestamp" in (await client.get(f"{widgets}/w")).ok()["metadata"]

    async def is_gone(path: str) -> bool:
        return (await client.get(path)).status == 404

    await until(is_going)
    # Its owner can still end its work.
    (await client.merge_patch(f"{widgets}/w", {"metadata": {"finalizers": None}})).ok()
    await until(lambda: is_gone(f"{DEFINITIONS}/widgets.{group}"))
    await until(lambda: is_gone(widgets))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, 'metadata.name: Invalid value: "other": must be spec.names.plural+"."+spec.group'),
        ({"rule": "self.size >"}, "compilation failed"),
        ({"untyped": True}, "openAPIV3Schema.properties[spec].properties[free].type: Required value: must not be empty"),
    ],
)
async def test_a_bad_definition_is_refused(client: Client, change: Object, message: str) -> None:
    body = definition(f"g{next(_numbers)}.example.com")
    schema = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    if "name" in change:
        body["metadata"]["name"] = change["name"]
    spec = {**SPEC, "properties": {**SPEC["properties"], **({"free": {}} if "untyped" in change else {})}}
    if "rule" in change:
        spec = {**spec, "x-kubernetes-validations": [{"rule": change["rule"]}]}
    schema["properties"] = {"spec": spec}
    (await client.post(DEFINITIONS, body)).refused(422, message)


async def test_printer_columns_are_filled_in(client: Client, group: str, widgets: str) -> None:
    (await client.post(widgets, widget(group))).ok()
    (await client.merge_patch(f"{widgets}/w/status", {"status": {"pods": [{"uid": "u1", "phase": "Mounted"}]}})).ok()
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    table = (await client.call("GET", widgets, headers=accept)).ok()
    assert [(c["name"], c["priority"]) for c in table["columnDefinitions"]] == [("Name", 0), ("Size", 0), ("First", 1), ("Age", 0)]
    assert table["rows"][0]["cells"][:3] == ["w", 1, "Mounted"]
