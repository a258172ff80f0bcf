from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.api.resources import PODS
from dynvol.kube.decoding import decode_event, decode_object, decode_page
from dynvol.kube.nesting import DEEPEST, shallow
from dynvol.runtime.source import Added, Modified, Unreadable

from .server import line, pod

ATTACK = 9000
"""Levels. The API server takes ten thousand."""

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


def nested(levels: int) -> bytes:
    return b'{"f:x":' * levels + b"[]" + b"}" * levels


def fields_managed(levels: int, name: str = "deep") -> bytes:
    """A pod as anyone may write one who may write pods."""
    entry = {"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": "@"}
    body: dict[str, Any] = pod(name, version="9")
    body["metadata"]["managedFields"] = [entry]
    return json.dumps(body).encode().replace(b'"@"', nested(levels))


@given(values)
def test_what_is_shallow_stays_as_it_is(value: Any) -> None:
    document = json.dumps(value).encode()
    assert shallow(document) == document


@given(st.integers(0, 300), values)
def test_what_lies_deeper_becomes_null_and_the_rest_stays(levels: int, value: Any) -> None:
    document = b'{"a":' + json.dumps(value).encode() + b',"deep":' + nested(levels) + b',"z":1}'
    found = msgspec.json.decode(shallow(document))
    assert (found["a"], found["z"]) == (value, 1)
    assert shallow(document).count(b"f:x") == min(levels, DEEPEST - 1)


@pytest.mark.parametrize("text", [rb'"[[[{{\"]]"', rb'"\\"', rb'["\"", "]", "\\\\"]'])
def test_brackets_in_strings_are_text(text: bytes) -> None:
    document = b"[" * DEEPEST + text + b"]" * DEEPEST
    assert shallow(document).count(b"[" * DEEPEST) == 1
    msgspec.json.decode(shallow(document))


@given(st.binary(max_size=200) | st.text('[]{}"\\,:a', max_size=300).map(str.encode))
def test_what_is_no_json_is_no_trap(document: bytes) -> None:
    assert len(shallow(document)) <= len(document) + 4 * document.count(b"[") + 4 * document.count(b"{")


def test_an_object_with_fields_nested_without_end_can_be_read() -> None:
    assert decode_object(fields_managed(ATTACK), PODS).metadata.name == "deep"


def test_one_deep_object_does_not_take_the_list_away() -> None:
    items = b",".join((json.dumps(pod("a")).encode(), fields_managed(ATTACK), json.dumps(pod("b")).encode()))
    found = decode_page(b'{"metadata":{"resourceVersion":"7"},"items":[' + items + b"]}", PODS)
    assert [p.metadata.name for p in found.items] == ["a", "deep", "b"]


def test_one_deep_object_does_not_end_a_watch() -> None:
    event = decode_event(b'{"type":"MODIFIED","object":' + fields_managed(ATTACK) + b"}", PODS)
    assert isinstance(event, Modified)
    assert event.object.metadata.resource_version == "9"


@given(st.binary(max_size=400), st.integers(0, 400))
def test_no_line_of_a_watch_makes_the_decoder_raise(noise: bytes, at: int) -> None:
    good = line("ADDED", pod(version="9"))
    event = decode_event(good[:at] + noise + good[at:], PODS)
    assert isinstance(event, Added | Unreadable)
