"""Parts of the server by themselves: paths, selectors, field sets, CEL, ages, the store."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.cluster.apiserver import cel, fieldsets, jsonpath, pki, protobuf
from e2e.cluster.apiserver.authn import DELETED_LEEWAY, Tokens
from e2e.cluster.apiserver.formats import accepted
from e2e.cluster.apiserver.selectors import labels_match
from e2e.cluster.apiserver.shape import UNKNOWN, Shape
from e2e.cluster.apiserver.status import ApiError
from e2e.cluster.apiserver.store import Conflict, Key, Store
from e2e.cluster.apiserver.table import duration

from .conftest import Object

DOCUMENT = {
    "metadata": {"labels": {"a.b/c": "x"}},
    "status": {"pods": [{"phase": "A", "ok": True}, {"phase": "B"}], "conditions": [{"type": "Ready", "status": "True"}]},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".status.pods[1].phase", ["B"]),
        (".status.pods[*].phase", ["A", "B"]),
        (".status.pods[-1].phase", ["B"]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type=='Lost')].status", []),
        (".status.pods[?(@.ok==true)].phase", ["A"]),
        (".metadata.labels['a.b/c']", ["x"]),
        (r".metadata.labels.a\.b/c", ["x"]),
        ("{.metadata.labels}", [{"a.b/c": "x"}]),
        (".nothing.here", []),
    ],
)
def test_paths_lead_to_values(path: str, found: list[Any]) -> None:
    assert jsonpath.find(DOCUMENT, path) == found


def test_a_path_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(ValueError, match="unsupported JSONPath"):
        jsonpath.find(DOCUMENT, ".status..pods")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (3599, "59m"), (7200, "120m"), (12000, "3h20m"), (86400, "24h")]
    + [(3 * 86400, "3d"), (3 * 86400 + 7200, "3d2h"), (30 * 86400, "30d"), (800 * 86400, "2y70d"), (-5, "<invalid>")],
)
def test_ages_are_short(seconds: int, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize("selector", ["a in (b", "=x", "a ==", "a in ()b", "a,,b"])
def test_a_selector_that_is_not_understood_is_refused(selector: str) -> None:
    if selector == "a ==":
        assert labels_match(selector)({"metadata": {"labels": {"a": ""}}})
        return
    with pytest.raises(ApiError):
        labels_match(selector)


KEYED = Shape(
    {
        "type": "object",
        "properties": {
            "list": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "integer"}}},
            },
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "whole": {"type": "array", "items": {"type": "string"}},
            "one": {"type": "object", "x-kubernetes-map-type": "atomic"},
            "free": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    {},
)

names = st.sampled_from(["a", "b", "c", 'd"e', "f:g", "."])
values = st.fixed_dictionaries(
    {},
    optional={
        "list": st.lists(
            st.fixed_dictionaries({"name": names, "value": st.integers(0, 3)}), unique_by=lambda item: str(item["name"])
        ),
        "set": st.lists(names, unique=True),
        "whole": st.lists(names),
        "one": st.dictionaries(names, names),
        "free": st.dictionaries(names, names),
    },
)


@given(values)
def test_field_sets_survive_their_stored_form(value: Object) -> None:
    paths = fieldsets.claimed(value, KEYED)
    assert fieldsets.decode(fieldsets.encode(paths)) == paths
    every = frozenset(fieldsets.all_paths(value, KEYED))
    assert fieldsets.decode(fieldsets.encode(every)) == every


@given(values, values)
def test_a_difference_is_told_from_both_sides(old: Object, new: Object) -> None:
    there, back = fieldsets.compare(old, new, KEYED), fieldsets.compare(new, old, KEYED)
    assert (there.added, there.removed, there.modified) == (back.removed, back.added, back.modified)
    before, after = set(fieldsets.all_paths(old, KEYED)), set(fieldsets.all_paths(new, KEYED))
    assert there.added == after - before and there.removed == before - after


@given(values)
def test_nothing_differs_from_itself(value: Object) -> None:
    assert not fieldsets.compare(value, value, KEYED).written


def test_paths_are_spelled_for_people() -> None:
    path = ("f:spec", 'k:{"containerPort":80,"protocol":"TCP"}', 'v:"x"')
    assert fieldsets.spelled(path) == '.spec[containerPort=80,protocol="TCP"][="x"]'


@pytest.mark.parametrize(
    "expression",
    [
        "self.text.find('[0-9]+') == '42'",
        "self.text.findAll('[a-z]').size() == 2",
        "self.numbers.isSorted() && self.numbers.sum() == 6 && self.numbers.max() == 3",
        "isURL(self.url) && url(self.url).getHost() == 'host:9' && url(self.url).getPort() == '9'",
        "isIP('10.0.0.1') && !isIP('10.0.0') && isCIDR('10.0.0.0/8') && isQuantity('10Mi')",
        "self.text.split('4')[0] == 'a' && self.text.matches('^a.*b$')",
        "self.?none.orValue('x') == 'x'",
        "has(self.text) && !has(self.none)",
        "self.numbers.all(n, n > 0) && self.numbers.exists_one(n, n == 2)",
        "cel.bind(t, self.text, t + t) == 'a42ba42b'",
        "self.when < timestamp('2030-01-01T00:00:00Z')",
        "self.dash__dash__ed == 1 && self.__namespace__ == 'n'",
    ],
)
def test_expressions_of_kubernetes(expression: str) -> None:
    value: Object = {"text": "a42b", "numbers": [1, 2, 3], "url": "https://host:9/p", "when": "2026-01-01T00:00:00Z"}
    value |= {"dash-ed": 1, "namespace": "n"}
    fields: Object = {name: {} for name in value} | {"when": {"type": "string", "format": "date-time"}}
    shape = Shape({"type": "object", "properties": fields}, {})
    assert cel.compiled(expression).evaluate({"self": cel.value_of(value, shape), "oldSelf": None}) is True


def test_what_is_no_expression_is_said_when_it_is_compiled() -> None:
    with pytest.raises(cel.CompileError, match="compilation failed"):
        cel.compiled("self. +")
    with pytest.raises(cel.EvaluationError, match="no such key: none"):
        cel.compiled("self.none == 1").evaluate({"self": cel.value_of({}, UNKNOWN), "oldSelf": None})


def test_protobuf_that_is_not_understood_is_refused() -> None:
    for content in (b"", b"k8s\x00", b"k8s\x00\x0a\xff", b"k8s\x00\x0a\x08\x0a\x02v1\x12\x02XX"):
        with pytest.raises(ApiError):
            protobuf.decode(content)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("", ""),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table"),
        ("application/vnd.kubernetes.protobuf,application/json", ""),
        ("application/json;as=Unheard;v=v1,application/json", ""),
    ],
)
def test_the_first_form_that_can_be_had_is_given(header: str, kind: str) -> None:
    assert accepted(header).kind == kind


def test_a_form_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(ApiError) as refusal:
        accepted("text/html")
    assert refusal.value.code == 406


def body(name: str) -> Object:
    return {"metadata": {"name": name}}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store(tmp_path / "db", history=4)
    yield store
    store.close()


def test_a_write_at_another_version_is_a_conflict(store: Store) -> None:
    key = Key("/things", "n", "a")
    entry = store.put(key, body("a"), expected=0)
    with pytest.raises(Conflict):
        store.put(key, body("a"), expected=0)
    store.put(key, body("a"), expected=entry.version)
    with pytest.raises(Conflict):
        store.remove(key, expected=entry.version)


def test_the_past_is_bounded(store: Store) -> None:
    start = store.version
    for number in range(6):
        store.put(Key("/things", "n", str(number)), body(str(number)), expected=0)
    with pytest.raises(ApiError, match="too old resource version"), store.subscribe("/things", since=start):
        pass
    assert [entry.key.name for entry in store.all_at(store.version - 2, "/things")] == ["0", "1", "2", "3"]


async def test_a_subscription_begins_with_the_past_and_keeps_the_order(store: Store) -> None:
    first = store.put(Key("/things", "n", "a"), body("a"), expected=0)
    second = store.put(Key("/things", "n", "b"), body("b"), expected=0)
    store.put(Key("/others", "n", "b"), body("b"), expected=0)
    with store.subscribe("/things", since=first.version) as changes:
        store.remove(Key("/things", "n", "b"), expected=second.version)
        seen = [await changes.next(), await changes.next()]
    assert [(change.key.name, change.after is None) for change in seen if change] == [("b", False), ("b", True)]


def test_a_token_ends_a_minute_after_its_account_was_deleted(tmp_path: Path) -> None:
    """Whatever finalizer still holds the account. A real server does so too, for longer than a test can wait."""
    store = Store(tmp_path / "db")
    tokens = Tokens(store, signing_key=pki.ensure(tmp_path, server="https://127.0.0.1:1").signing_key)
    account = store.put(Key("/serviceaccounts", "ns", "a"), {"kind": "ServiceAccount", "metadata": {"uid": "u"}}, expected=0)
    token, _ = tokens.issue(account, audiences=(), lifetime=3600)
    now = datetime.datetime.now(datetime.UTC)
    for age, lives in ((DELETED_LEEWAY - 30, True), (DELETED_LEEWAY + 2, False)):
        body = account.thaw()
        body["metadata"]["deletionTimestamp"] = (now - datetime.timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
        account = store.put(account.key, body, expected=account.version)
        if lives:
            assert tokens.user(token).name == "system:serviceaccount:ns:a"
        else:
            with pytest.raises(ApiError):
                tokens.user(token)
    store.close()
