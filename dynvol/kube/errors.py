"""What the API server, or the way to it, can answer instead of what was asked.

KubeError
├── ConfigurationError    no usable kubeconfig or service account; no retry helps
├── Unreachable           no HTTP answer; retry
├── Malformed             an answer that is not what it should be; someone speaks another language
└── ApiError              the server answered, with a metav1.Status or some other refusal
    ├── NotFound          404: the object, or its whole resource, is not there
    ├── AlreadyExists     409 on create
    ├── Conflict          409: someone else was quicker; read again, decide again
    ├── Invalid           422, 400: the request is wrong, or a JSON patch's test failed; the same request fails again
    ├── Forbidden         403: RBAC or an admission plugin; retry only since someone may grant it
    ├── Unauthorized      401: token or certificate refused; retry with a fresh token
    ├── Gone              410: the version that was asked for is compacted away
    ├── TooManyRequests   429: retry after `retry_after` seconds
    └── ServerError       5xx, 408: retry

Messages name the request and say what to do; they never hold a request's or an answer's body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from ..runtime.errors import Contended, Throttled


class StatusCause(msgspec.Struct, frozen=True, kw_only=True):
    reason: str = ""
    message: str = ""
    field: str = ""


class StatusDetails(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str = ""
    kind: str = ""
    retry_after_seconds: int = 0
    causes: tuple[StatusCause, ...] | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """metav1.Status, as far as it is used. Every field may be missing; proxies on the way answer with something else
    altogether."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None

    @property
    def causes(self) -> tuple[StatusCause, ...]:
        return (self.details.causes or ()) if self.details else ()


class KubeError(Exception):
    """Base of all that goes wrong between dynvol and the API server."""

    retryable: ClassVar[bool] = True
    """Whether the same request, made again later, may succeed without anyone changing anything."""


class ConfigurationError(KubeError):
    """There is no kubeconfig or service account that can be used. The message says what is missing where."""

    retryable = False


class Unreachable(KubeError):
    """No HTTP answer: refused, timed out, name not resolved, TLS failed, or the connection broke in the middle.

    A request that changes something may or may not have taken effect.
    """


class Malformed(KubeError):
    """A 2xx answer that does not decode to what it should be."""

    retryable = False


class ApiError(KubeError):
    """The server answered, but not with what was asked for."""

    advice: ClassVar[str] = ""

    def __init__(self, status: Status, *, request: str, retry_after: float = 0.0) -> None:
        said = status.message or status.reason or "no reason given"
        super().__init__(f"{request}: {said} ({status.code})" + (f"; {self.advice}" if self.advice else ""))
        self.status = status
        self.request = request
        self.retry_after = retry_after
        """Seconds that the server asks to wait; 0 where it does not say."""

    @property
    def code(self) -> int:
        return self.status.code

    @property
    def reason(self) -> str:
        return self.status.reason

    @property
    def message(self) -> str:
        """What the server said, for a condition or an event."""
        return self.status.message or self.status.reason

    def caused_by(self, reason: str) -> bool:
        return self.status.reason == reason or any(cause.reason == reason for cause in self.status.causes)


class NotFound(ApiError):
    retryable = False


class AlreadyExists(ApiError):
    retryable = False


class Conflict(ApiError, Contended):
    pass


class Invalid(ApiError):
    retryable = False


class Forbidden(ApiError):
    advice = "the role of this service account in config/rbac must grant it"


class Unauthorized(ApiError):
    advice = "the token or client certificate was not accepted; it is read again before the next request"


class Gone(ApiError):
    pass


class TooManyRequests(ApiError, Throttled):
    """Also what `dynvol.runtime` knows as a request for patience, so a controller may let it through."""


class ServerError(ApiError):
    pass


_BY_CODE: Mapping[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: ServerError,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}

_status = msgspec.json.Decoder(Status)


def from_status(status: Status, *, request: str, retry_after: float = 0.0) -> ApiError:
    """The error for a metav1.Status, as an answer or as the object of an ERROR event."""
    if status.code == 409 and status.reason == "AlreadyExists":
        kind: type[ApiError] = AlreadyExists
    else:
        kind = _BY_CODE.get(status.code, ServerError if status.code >= 500 else ApiError)
    in_body = status.details.retry_after_seconds if status.details else 0
    return kind(status, request=request, retry_after=retry_after or float(in_body))


def from_answer(code: int, body: bytes, *, request: str, retry_after: str | None = None) -> ApiError:
    """The error for an HTTP answer outside 2xx. A body that is no Status (a proxy's page) is not repeated in the message."""
    try:
        status = _status.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        status = Status(reason="Unknown", message="the answer is not from an API server")
    return from_status(msgspec.structs.replace(status, code=code), request=request, retry_after=_seconds(retry_after))


def _seconds(header: str | None) -> float:
    """Retry-After in seconds; the API server never sends the form with a date."""
    return float(header) if header and header.isascii() and header.isdigit() else 0.0
