from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import pytest

from dynvol.api.resources import PODS, SECRETS
from dynvol.kube.decoding import decode_event, decode_object, decode_page
from dynvol.kube.errors import ApiError, Gone, ServerError
from dynvol.runtime.source import Added, Bookmark, Deleted, Modified, Unreadable

from .server import line, pod


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def page(*items: Any, **metadata: Any) -> bytes:
    return encoded({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": list(items)})


def test_a_page_has_its_version_token_and_rest() -> None:
    body = page(pod(), resourceVersion="7", **{"continue": "next", "remainingItemCount": 12})
    found = decode_page(body, PODS)
    assert (found.resource_version, found.continue_token, found.remaining) == ("7", "next", 12)
    assert [p.metadata.key for p in found.items] == ["ns/web"]


def test_a_null_list_is_empty() -> None:
    assert decode_page(encoded({"metadata": {"resourceVersion": "7"}, "items": None}), PODS).items == ()


def test_one_malformed_item_is_left_out_and_logged_without_its_content(caplog: pytest.LogCaptureFixture) -> None:
    broken = pod("broken", volumes="secret-value")
    with caplog.at_level(logging.WARNING):
        found = decode_page(page(pod("a"), broken, pod("b"), resourceVersion="7"), PODS)
    assert [p.metadata.name for p in found.items] == ["a", "b"]
    assert found.resource_version == "7"
    [record] = caplog.records
    assert vars(record)["object"] == "broken"
    assert "secret-value" not in str(vars(record))


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"items": [', b'{"kind": "Status"}'])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_page(body, PODS)


def test_changes_carry_the_object() -> None:
    for word, kind in {"ADDED": Added, "MODIFIED": Modified, "DELETED": Deleted}.items():
        event = decode_event(line(word, pod(version="9", nodeName="n1")), PODS)
        assert type(event) is kind
        assert isinstance(event, Added | Modified | Deleted)
        assert (event.object.metadata.resource_version, event.object.spec.node_name) == ("9", "n1")


def test_a_bookmark_may_end_the_initial_events() -> None:
    plain = {"kind": "Pod", "metadata": {"resourceVersion": "12"}, "spec": {"containers": None}, "status": {}}
    assert decode_event(line("BOOKMARK", plain), PODS) == Bookmark("12")
    plain["metadata"] = {"resourceVersion": "13", "annotations": {"k8s.io/initial-events-end": "true"}}
    assert decode_event(line("BOOKMARK", plain), PODS) == Bookmark("13", initial_events_end=True)


def test_an_object_that_does_not_fit_is_unreadable_and_still_advances_the_version() -> None:
    event = decode_event(line("MODIFIED", pod(version="9", nodeName=["secret-value"])), PODS)
    assert isinstance(event, Unreadable)
    assert event.resource_version == "9"
    assert "secret-value" not in event.detail


@pytest.mark.parametrize(
    "text", [b"nonsense", b'{"type":"ADDED"}', b"[]", b'{"type":"BOOKMARK","object":{}}', b'{"type":1,"object":{}}']
)
def test_a_line_that_makes_no_sense_is_unreadable(text: bytes) -> None:
    assert isinstance(decode_event(text, PODS), Unreadable)


def test_an_event_of_unknown_type_is_unreadable_and_advances_the_version() -> None:
    event = decode_event(line("RENAMED", pod(version="9")), PODS)
    assert isinstance(event, Unreadable)
    assert event.resource_version == "9"


def test_an_error_event_is_raised_as_the_error_that_it_is() -> None:
    with pytest.raises(Gone, match="too old"):
        decode_event(line("ERROR", {"code": 410, "reason": "Expired", "message": "too old resource version"}), PODS)


@pytest.mark.parametrize("status", [{}, {"code": None}, "text", {"code": 500, "details": {"causes": None}}])
def test_an_error_event_without_a_reason_is_an_error_all_the_same(status: Any) -> None:
    with pytest.raises(ApiError) as caught:
        decode_event(line("ERROR", status), PODS)
    assert isinstance(caught.value, ServerError) == (isinstance(status, dict) and status.get("code") == 500)


def test_a_secret_is_decoded_to_bytes_and_never_shown() -> None:
    secret = decode_object(encoded({"metadata": {"name": "s", "namespace": "n"}, "data": {"key": "aHVudGVyMg=="}}), SECRETS)
    assert secret.data == {"key": b"hunter2"}
    assert "hunter2" not in repr(secret)
