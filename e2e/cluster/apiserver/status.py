"""Errors as the Kubernetes API words them.

Clients act on `reason` and `code`, people read `message`, and kubectl prints the causes. So every refusal of this server is an
`ApiError`, and its text follows the real server's. This module decides nothing: who is refused, and why, is known elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Any
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field; the shape of apimachinery's `field.Error`."""

    path: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}" if self.path else self.detail

    def cause(self) -> Object:
        return {"reason": self.reason, "message": self.detail, "field": self.path}


def required(path: str, detail: str = "") -> FieldError:
    return FieldError(path, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def invalid(path: str, value: Json, detail: str) -> FieldError:
    return FieldError(path, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {detail}")


def type_invalid(path: str, value: Json, detail: str) -> FieldError:
    return FieldError(path, "FieldValueTypeInvalid", f"Invalid value: {_shown(value)}: {detail}")


def unsupported(path: str, value: Json, supported: Iterable[Json]) -> FieldError:
    choices = ", ".join(json.dumps(choice if isinstance(choice, str) else json.dumps(choice)) for choice in supported)
    return FieldError(path, "FieldValueNotSupported", f"Unsupported value: {_shown(value)}: supported values: {choices}")


def duplicate(path: str, value: Json) -> FieldError:
    return FieldError(path, "FieldValueDuplicate", f"Duplicate value: {_shown(value)}")


def forbidden_field(path: str, detail: str) -> FieldError:
    return FieldError(path, "FieldValueForbidden", f"Forbidden: {detail}")


def too_long(path: str, limit: int) -> FieldError:
    return FieldError(path, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(path: str, actual: int, limit: int) -> FieldError:
    return FieldError(path, "FieldValueTooMany", f"Too many: {actual}: must have at most {limit} item{'s' * (limit != 1)}")


def too_few(path: str, actual: int, least: int) -> FieldError:
    return FieldError(path, "FieldValueInvalid", f"Invalid value: {actual}: {path} in body should have at least {least} properties")


def omitted(path: str, detail: str, *, kind: str) -> FieldError:
    """An error about a value that is not shown, but named by its type."""
    return FieldError(path, "FieldValueInvalid", f'Invalid value: "{kind}": {detail}')


def _shown(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(slots=True)
class ApiError(Exception):
    """A refusal that reaches the client as a `Status`."""

    code: int
    reason: str
    message: str
    details: Object = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    metadata: Object = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def body(self) -> Object:
        status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": self.metadata, "status": "Failure"}
        status |= {"message": self.message, "reason": self.reason, "code": self.code}
        if self.details:
            status["details"] = self.details
        return status


@dataclass(frozen=True, slots=True)
class Subject:
    """What a refusal is about: enough of a resource to name it in a message."""

    group: str
    resource: str
    kind: str

    @property
    def qualified(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource

    @property
    def qualified_kind(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def details(self, name: str) -> Object:
        details = {"name": name, "group": self.group, "kind": self.resource}
        return {key: value for key, value in details.items() if value}


def success(subject: Subject, name: str, *, uid: str = "") -> Object:
    details = subject.details(name) | ({"uid": uid} if uid else {})
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def not_found(subject: Subject, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{subject.qualified} "{name}" not found', subject.details(name))


def no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(subject: Subject, name: str) -> ApiError:
    return ApiError(409, "AlreadyExists", f'{subject.qualified} "{name}" already exists', subject.details(name))


def conflict(subject: Subject, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {subject.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, subject.details(name))


def modified(subject: Subject, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(subject, name, why)


def apply_conflict(message: str, causes: Sequence[Object]) -> ApiError:
    return ApiError(409, "Conflict", message, {"causes": list(causes)})


def unprocessable(subject: Subject, name: str, errors: Sequence[FieldError]) -> ApiError:
    texts = [str(error) for error in errors]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {"name": name, "group": subject.group, "kind": subject.kind, "causes": [error.cause() for error in errors]}
    details = {key: value for key, value in details.items() if value}
    return ApiError(422, "Invalid", f'{subject.qualified_kind} "{name}" is invalid: {joined}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def list_options(path: str, detail: str) -> ApiError:
    """Options of a list or watch that do not go together."""
    return unprocessable(Subject("meta.k8s.io", "", "ListOptions"), "", [forbidden_field(path, detail)])


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(subject: Subject, name: str, why: str) -> ApiError:
    about = f' "{name}"' if name else ""
    return ApiError(403, "Forbidden", f"{subject.qualified}{about} is forbidden: {why}", subject.details(name))


def forbidden_path(user: str, verb: str, path: str) -> ApiError:
    return ApiError(403, "Forbidden", f'forbidden: User "{user}" cannot {verb} path "{path}"')


def method_not_allowed(message: str = "the server does not allow this method on the requested resource") -> ApiError:
    return ApiError(405, "MethodNotAllowed", message)


def unsupported_media_type(accepted: Iterable[str]) -> ApiError:
    choices = ", ".join(accepted)
    message = f"the body of the request was in an unknown format - accepted media types include: {choices}"
    return ApiError(415, "UnsupportedMediaType", message)


def not_acceptable() -> ApiError:
    choices = "application/json, application/yaml"
    return ApiError(406, "NotAcceptable", f"only the following media types are accepted: {choices}")


def expired(message: str = "The resourceVersion for the provided watch is too old.") -> ApiError:
    return ApiError(410, "Expired", message)


def too_large_version(wanted: int, current: int) -> ApiError:
    message = f"Too large resource version: {wanted}, current: {current}"
    details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
    return ApiError(504, "Timeout", f"Timeout: {message}", details | {"retryAfterSeconds": 1}, {"Retry-After": "1"})


def too_many_requests(message: str, *, retry_after: int) -> ApiError:
    headers = {"Retry-After": str(retry_after)}
    return ApiError(429, "TooManyRequests", message, {"retryAfterSeconds": retry_after}, headers)


def internal(message: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {message}")


def unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)
