"""Validating admission policies keep out what breaks their rules."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from .conftest import Answer, Client, Object, pod

GROUP = "/apis/admissionregistration.k8s.io/v1"
_numbers = itertools.count(1)

Enforce = Callable[..., Any]


@pytest.fixture
async def enforce(client: Client, namespace: str) -> AsyncIterator[Enforce]:
    """Put a policy in force in the test's namespace; its name."""
    made: list[str] = []

    async def put(*validations: Object, actions: tuple[str, ...] = ("Deny",), **spec: Any) -> str:
        name = f"policy-{next(_numbers)}-{namespace}"
        rules = [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps", "pods", "pods/*"]}]
        constraints = {"resourceRules": rules}
        policy = {"matchConstraints": constraints, "validations": list(validations), **spec}
        selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        binding = {"policyName": name, "validationActions": list(actions), "matchResources": {"namespaceSelector": selector}}
        for plural, body in (("validatingadmissionpolicies", policy), ("validatingadmissionpolicybindings", binding)):
            (await client.post(f"{GROUP}/{plural}", {"metadata": {"name": name}, "spec": body})).ok()
            made.append(f"{GROUP}/{plural}/{name}")
        return name

    yield put
    for path in reversed(made):
        (await client.delete(path)).ok()


async def create_until(client: Client, core: str, wanted: Callable[[Answer], bool], **body: Any) -> Answer:
    """A real server puts a policy in force some time after it was made."""
    async with asyncio.timeout(30):
        while True:
            answer = await client.post(f"{core}/configmaps", {"metadata": {"generateName": "c-"}, **body})
            if wanted(answer):
                return answer
            await asyncio.sleep(0.2)


def is_refused(answer: Answer) -> bool:
    return answer.status >= 400


async def test_what_breaks_a_rule_is_refused_in_its_words(client: Client, core: str, enforce: Enforce) -> None:
    name = await enforce({"expression": "has(object.data) && 'k' in object.data", "message": "a k is needed"})
    refusal = (await create_until(client, core, is_refused)).refused(422)
    assert refusal["reason"] == "Invalid"
    said = f"ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: a k is needed"
    assert refusal["message"].endswith(said)
    assert refusal["details"]["causes"] == [{"message": said}]
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "good"}, "data": {"k": "v"}})).ok()


async def test_a_message_can_be_worked_out_and_a_reason_given(client: Client, core: str, enforce: Enforce) -> None:
    rule = {"expression": "false", "messageExpression": "'no ' + request.operation", "reason": "Forbidden"}
    await enforce(rule)
    (await create_until(client, core, is_refused)).refused(403, "denied request: no CREATE")


async def test_a_rule_can_only_warn(client: Client, core: str, enforce: Enforce) -> None:
    await enforce({"expression": "false", "message": "better not"}, actions=("Warn",))
    answer = await create_until(client, core, lambda answer: "Warning" in answer.headers)
    assert "better not" in answer.headers["Warning"]
    answer.ok()


async def test_variables_are_worked_out_only_where_they_are_used(client: Client, core: str, enforce: Enforce) -> None:
    variables = [
        {"name": "before", "expression": "oldObject.data"},
        {"name": "after", "expression": "has(object.data) ? object.data : {}"},
        {"name": "doubled", "expression": "variables.after.size() * 2"},
    ]
    await enforce(
        {"expression": "variables.doubled < 4", "message": "too much"},
        {"expression": "request.operation != 'UPDATE' || variables.before == variables.after", "message": "it stays as it is"},
        variables=variables,
    )
    (await create_until(client, core, is_refused, data={"a": "1", "b": "2"})).refused(422, "too much")
    (await client.post(f"{core}/configmaps", {"metadata": {"name": "m"}, "data": {"a": "1"}})).ok()
    (await client.merge_patch(f"{core}/configmaps/m", {"data": {"a": "2"}})).refused(422, "it stays as it is")
    (await client.merge_patch(f"{core}/configmaps/m", {"metadata": {"labels": {"x": "y"}}})).ok()


async def test_a_policy_can_concern_one_user_only(client: Client, core: str, enforce: Enforce) -> None:
    condition = {"name": "her", "expression": "request.userInfo.username == 'her'"}
    await enforce({"expression": "false", "message": "not you"}, matchConditions=[condition])
    groups = {"Impersonate-User": "her", "Impersonate-Group": "system:masters"}

    async def as_her() -> Answer:
        return await client.call("POST", f"{core}/configmaps", {"metadata": {"generateName": "c-"}}, headers=groups)

    async with asyncio.timeout(30):
        while (await as_her()).status != 422:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    (await client.post(f"{core}/configmaps", {"metadata": {"generateName": "c-"}})).ok()


async def test_acts_upon_pods_are_admitted_as_what_they_are(client: Client, core: str, enforce: Enforce) -> None:
    await enforce(
        {"expression": "request.operation != 'CREATE' || request.resource.resource != 'configmaps'", "message": "in force"},
        {
            "expression": "!has(request.subResource) || request.subResource != 'eviction' || request.kind.kind != 'Eviction'",
            "message": "no evictions",
        },
        {"expression": "request.operation != 'CONNECT' || object.command != ['sh']", "message": "no shells"},
    )
    await create_until(client, core, is_refused)
    (await client.post(f"{core}/pods", pod("p", nodeName="none"))).ok()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    (await client.post(f"{core}/pods/p/eviction", eviction)).refused(422, "no evictions")
    (await client.get(f"{core}/pods/p/exec", command="sh", stdout="true")).refused(422, "no shells")
    (await client.delete(f"{core}/pods/p", {"gracePeriodSeconds": 0})).ok()
