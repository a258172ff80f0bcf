from __future__ import annotations

import base64
from typing import Any

import pytest

from e2e.cluster.kubelet import quantity
from e2e.cluster.kubelet.environment import (
    ConfigError,
    Facts,
    Sources,
    command_line,
    expand,
    field,
    variables,
)

Object = dict[str, Any]

FACTS = Facts("127.1.1.9", "127.1.1.1", {"cpu": "2", "memory": "4Gi"}, {"KUBERNETES_SERVICE_HOST": "127.0.0.1"})
NONE = Sources({}, {})
POD: Object = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": 'say "x"'}, "annotations": {"k/y": "v"}},
    "spec": {"nodeName": "node", "containers": []},
}


def environment(*env: Object, sources: Sources = NONE, **fields: Any) -> dict[str, str]:
    return variables(POD, {"name": "c", "env": list(env), **fields}, FACTS, sources)


def secret(**values: str) -> Object:
    return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$(A)", "1"), ("x$(A)y$(A)", "x1y1"), ("$$(A)", "$(A)"), ("$(B)", "$(B)"), ("$A", "$A"), ("$(A", "$(A"), ("$", "$")],
)
def test_references_are_expanded_as_the_api_says(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_a_variable_sees_those_before_it_only() -> None:
    found = environment({"name": "A", "value": "$(B)"}, {"name": "B", "value": "1"}, {"name": "C", "value": "$(B)"})
    assert (found["A"], found["C"]) == ("$(B)", "1")


def test_env_wins_over_env_from_and_a_prefix_is_put_before_the_key() -> None:
    sources = Sources({"m": {"data": {"A": "map", "B": "b", "not a name": "x"}}}, {})
    found = environment(
        {"name": "A", "value": "own"}, envFrom=[{"configMapRef": {"name": "m"}}, {"prefix": "P_", "configMapRef": {"name": "m"}}],
        sources=sources,
    )  # fmt: skip
    assert (found["A"], found["B"], found["P_A"]) == ("own", "b", "map")
    assert "not a name" not in found


def test_a_key_of_a_secret_is_decoded() -> None:
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    assert environment({"name": "A", "valueFrom": reference}, sources=Sources({}, {"s": secret(k="v")}))["A"] == "v"


def test_a_missing_secret_or_key_is_an_error_unless_it_is_optional() -> None:
    for known in ({}, {"s": secret(other="v")}):
        sources = Sources({}, known)
        with pytest.raises(ConfigError):
            environment({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, sources=sources)
        optional = {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}
        assert "A" not in environment({"name": "A", "valueFrom": optional}, sources=sources)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.uid", "u"),
        ("metadata.labels['a']", 'say "x"'),
        ("metadata.annotations['k/y']", "v"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'a="say \\"x\\""'),
        ("spec.nodeName", "node"),
        ("status.podIP", "127.1.1.9"),
        ("status.hostIP", "127.1.1.1"),
    ],
)
def test_fields_of_the_downward_api(path: str, value: str) -> None:
    assert field(POD, path, FACTS) == value


def test_a_limit_that_is_not_set_is_what_the_node_can_give() -> None:
    reference = {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}
    assert environment({"name": "A", "valueFrom": reference})["A"] == "4096"


def test_a_cpu_limit_is_rounded_up_to_whole_units_of_the_divisor() -> None:
    reference = {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}
    assert environment(reference, resources={"limits": {"cpu": "1500m"}})["A"] == "2"


def test_command_replaces_the_entrypoint_and_args_follow_either() -> None:
    assert command_line({"args": ["$(A)"]}, ["/entry"], {"A": "1"}) == ["/entry", "1"]
    assert command_line({"command": ["run"], "args": ["x"]}, ["/entry"], {}) == ["run", "x"]
    with pytest.raises(ConfigError):
        command_line({}, [], {})


@pytest.mark.parametrize(
    ("text", "value"), [("10m", "0.01"), ("50Mi", 50 * 2**20), ("1.5Gi", 3 * 2**29), ("2k", 2000), ("1e3", 1000), (3, 3)]
)
def test_quantities_are_read(text: str, value: Any) -> None:
    assert float(quantity.parse(text)) == float(value)


def test_milli_cpus_round_up() -> None:
    assert [quantity.milli(text) for text in ("10m", "0.0005", "2")] == [10, 1, 2000]
