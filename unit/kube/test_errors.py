from __future__ import annotations

import json

import pytest

from dynvol.kube import errors
from dynvol.kube.source import as_source_error
from dynvol.runtime import errors as runtime


def answer(
    code: int, *, reason: str = "", message: str = "said", retry_after: str | None = None, **more: object
) -> errors.ApiError:
    body = json.dumps({"kind": "Status", "code": code, "reason": reason, "message": message, **more}).encode()
    return errors.from_answer(code, body, request="GET /api/v1/pods", retry_after=retry_after)


@pytest.mark.parametrize(
    ("code", "reason", "kind", "retryable"),
    [
        (400, "BadRequest", errors.Invalid, False),
        (401, "Unauthorized", errors.Unauthorized, True),
        (403, "Forbidden", errors.Forbidden, True),
        (404, "NotFound", errors.NotFound, False),
        (409, "AlreadyExists", errors.AlreadyExists, False),
        (409, "Conflict", errors.Conflict, True),
        (410, "Expired", errors.Gone, True),
        (422, "Invalid", errors.Invalid, False),
        (429, "TooManyRequests", errors.TooManyRequests, True),
        (500, "InternalError", errors.ServerError, True),
        (503, "ServiceUnavailable", errors.ServerError, True),
        (504, "Timeout", errors.ServerError, True),
        (418, "", errors.ApiError, True),
    ],
)
def test_each_status_is_an_error_that_says_whether_to_try_again(
    code: int, reason: str, kind: type[errors.ApiError], retryable: bool
) -> None:
    error = answer(code, reason=reason)
    assert type(error) is kind
    assert error.retryable is retryable
    assert (error.code, error.reason, error.message) == (code, reason, "said")


def test_the_text_names_the_request_what_was_said_and_what_to_do() -> None:
    text = str(answer(403, reason="Forbidden", message='pods is forbidden: User "x" cannot list'))
    assert text.startswith('GET /api/v1/pods: pods is forbidden: User "x" cannot list (403)')
    assert "config/rbac" in text


def test_a_proxys_page_is_not_repeated() -> None:
    error = errors.from_answer(502, b"<html>secret-value</html>", request="GET /x")
    assert isinstance(error, errors.ServerError)
    assert "secret-value" not in str(error)


def test_the_time_to_wait_comes_from_the_header_or_the_body() -> None:
    assert answer(429, retry_after="7").retry_after == 7
    assert answer(429, details={"retryAfterSeconds": 3}).retry_after == 3
    assert answer(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT").retry_after == 0


def test_the_runtime_knows_a_request_for_patience_when_it_sees_one() -> None:
    error = answer(429, retry_after="7")
    assert isinstance(error, runtime.Throttled)
    assert error.retry_after == 7
    assert "said" in str(error)


def test_each_error_of_a_watch_has_its_consequence() -> None:
    too_large = answer(504, reason="Timeout", details={"causes": [{"reason": "ResourceVersionTooLarge"}]})
    for error, kind in {
        answer(410, reason="Expired"): runtime.Expired,
        too_large: runtime.TooLargeVersion,
        answer(429): runtime.Throttled,
        answer(500): runtime.Unavailable,
        errors.Unreachable("no answer"): runtime.Unavailable,
        answer(403): runtime.SourceError,
        answer(400): runtime.SourceError,
    }.items():
        assert type(as_source_error(error)) is kind


def test_a_server_that_cannot_stream_lists_is_told_from_one_that_is_ill() -> None:
    disabled = answer(500, message="a watch stream was requested but the required storage feature RequestWatchProgress is disabled")
    for error, kind in {
        answer(422, reason="Invalid"): runtime.StreamingListUnsupported,
        answer(400, reason="BadRequest"): runtime.StreamingListUnsupported,
        disabled: runtime.StreamingListUnsupported,
        answer(500): runtime.Unavailable,
        answer(410): runtime.Expired,
    }.items():
        assert type(as_source_error(error, initial_events=True)) is kind
