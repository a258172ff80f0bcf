"""Requests in protobuf, which kubectl's imperative commands send (`create configmap`, `create token`, `auth can-i`, …).

Only what those commands send is known: the tables give each message's fields by the numbers of Kubernetes' API. Answers are always
JSON, which these clients accept. A kind that is not here is an unsupported media type; `kubectl apply` always sends JSON.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from e2e.cluster.apiserver.status import Json, Object, bad_request, unsupported_media_type

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: str = "text"
    """A scalar, or the name of a message."""
    repeated: bool = False
    is_map: bool = False
    keeps_zero: bool = True
    """Whether zero is a value: Go sends some zeroes that only mean that nothing was set."""


def _text(name: str) -> Field:
    return Field(name)


def _many(name: str, kind: str = "text") -> Field:
    return Field(name, kind, repeated=True)


def _map(name: str, kind: str = "text") -> Field:
    return Field(name, kind, is_map=True)


def _int(name: str, *, keeps_zero: bool = True) -> Field:
    return Field(name, "int", keeps_zero=keeps_zero)


def _bool(name: str) -> Field:
    return Field(name, "bool")


METADATA = Field("metadata", "ObjectMeta")
ROLE = {1: METADATA, 2: _many("rules", "PolicyRule")}
BINDING = {1: METADATA, 2: _many("subjects", "Subject"), 3: Field("roleRef", "RoleRef")}

MESSAGES: dict[str, dict[int, Field]] = {
    "TypeMeta": {1: _text("apiVersion"), 2: _text("kind")},
    "ObjectMeta": {
        1: _text("name"),
        2: _text("generateName"),
        3: _text("namespace"),
        5: _text("uid"),
        6: _text("resourceVersion"),
        7: _int("generation", keeps_zero=False),
        8: Field("creationTimestamp", "time"),
        11: _map("labels"),
        12: _map("annotations"),
        13: _many("ownerReferences", "OwnerReference"),
        14: _many("finalizers"),
    },
    "OwnerReference": {
        1: _text("kind"),
        3: _text("name"),
        4: _text("uid"),
        5: _text("apiVersion"),
        6: _bool("controller"),
        7: _bool("blockOwnerDeletion"),
    },
    "LabelSelector": {1: _map("matchLabels")},
    "ConfigMap": {1: METADATA, 2: _map("data"), 3: _map("binaryData", "bytes"), 4: _bool("immutable")},
    "Secret": {1: METADATA, 2: _map("data", "bytes"), 3: _text("type"), 4: _map("stringData"), 5: _bool("immutable")},
    "Namespace": {1: METADATA},
    "ServiceAccount": {1: METADATA, 4: _bool("automountServiceAccountToken")},
    "TokenRequest": {1: METADATA, 2: Field("spec", "TokenRequestSpec")},
    "TokenRequestSpec": {1: _many("audiences"), 3: Field("boundObjectRef", "BoundObjectReference"), 4: _int("expirationSeconds")},
    "BoundObjectReference": {1: _text("kind"), 2: _text("apiVersion"), 3: _text("name"), 4: _text("uid")},
    "SelfSubjectAccessReview": {1: METADATA, 2: Field("spec", "SelfSubjectAccessReviewSpec")},
    "SelfSubjectAccessReviewSpec": {
        1: Field("resourceAttributes", "ResourceAttributes"),
        2: Field("nonResourceAttributes", "NonResourceAttributes"),
    },
    "ResourceAttributes": {
        1: _text("namespace"),
        2: _text("verb"),
        3: _text("group"),
        4: _text("version"),
        5: _text("resource"),
        6: _text("subresource"),
        7: _text("name"),
    },
    "NonResourceAttributes": {1: _text("path"), 2: _text("verb")},
    "SelfSubjectRulesReview": {1: METADATA, 2: Field("spec", "SelfSubjectRulesReviewSpec")},
    "SelfSubjectRulesReviewSpec": {1: _text("namespace")},
    "SelfSubjectReview": {1: METADATA},
    "Eviction": {1: METADATA, 2: Field("deleteOptions", "DeleteOptions")},
    "DeleteOptions": {
        1: _int("gracePeriodSeconds"),
        2: Field("preconditions", "Preconditions"),
        3: _bool("orphanDependents"),
        4: _text("propagationPolicy"),
        5: _many("dryRun"),
    },
    "Preconditions": {1: _text("uid"), 2: _text("resourceVersion")},
    "Role": ROLE,
    "ClusterRole": ROLE,
    "PolicyRule": {
        1: _many("verbs"),
        2: _many("apiGroups"),
        3: _many("resources"),
        4: _many("resourceNames"),
        5: _many("nonResourceURLs"),
    },
    "RoleBinding": BINDING,
    "ClusterRoleBinding": BINDING,
    "Subject": {1: _text("kind"), 2: _text("apiGroup"), 3: _text("name"), 4: _text("namespace")},
    "RoleRef": {1: _text("apiGroup"), 2: _text("kind"), 3: _text("name")},
    "PriorityClass": {
        1: METADATA,
        2: _int("value"),
        3: _bool("globalDefault"),
        4: _text("description"),
        5: _text("preemptionPolicy"),
    },
    "PodDisruptionBudget": {1: METADATA, 2: Field("spec", "PodDisruptionBudgetSpec")},
    "PodDisruptionBudgetSpec": {
        1: Field("minAvailable", "int_or_string"),
        2: Field("selector", "LabelSelector"),
        3: Field("maxUnavailable", "int_or_string"),
    },
    "Service": {1: METADATA, 2: Field("spec", "ServiceSpec")},
    "ServiceSpec": {1: _many("ports", "ServicePort"), 2: _map("selector"), 3: _text("clusterIP"), 4: _text("type")},
    "ServicePort": {
        1: _text("name"),
        2: _text("protocol"),
        3: _int("port"),
        4: Field("targetPort", "int_or_string"),
        5: _int("nodePort", keeps_zero=False),
    },
    "Deployment": {1: METADATA, 2: Field("spec", "DeploymentSpec")},
    "DeploymentSpec": {1: _int("replicas"), 2: Field("selector", "LabelSelector"), 3: Field("template", "PodTemplateSpec")},
    "PodTemplateSpec": {1: METADATA, 2: Field("spec", "PodSpec")},
    "Pod": {1: METADATA, 2: Field("spec", "PodSpec")},
    "PodSpec": {
        2: _many("containers", "Container"),
        3: _text("restartPolicy"),
        4: _int("terminationGracePeriodSeconds"),
        6: _text("dnsPolicy"),
        7: _map("nodeSelector"),
        8: _text("serviceAccountName"),
        10: _text("nodeName"),
    },
    "Container": {
        1: _text("name"),
        2: _text("image"),
        3: _many("command"),
        4: _many("args"),
        5: _text("workingDir"),
        6: _many("ports", "ContainerPort"),
        7: _many("env", "EnvVar"),
        14: _text("imagePullPolicy"),
        16: _bool("stdin"),
        17: _bool("stdinOnce"),
        18: _bool("tty"),
    },
    "ContainerPort": {1: _text("name"), 2: _int("hostPort", keeps_zero=False), 3: _int("containerPort"), 4: _text("protocol")},
    "EnvVar": {1: _text("name"), 2: _text("value")},
}

_FIXED64 = 1


def decode(content: bytes) -> Object:
    """The object in a request's body: an envelope that names its kind, around its message."""
    if not content.startswith(MAGIC):
        raise bad_request("the object provided is unrecognized: no protobuf of Kubernetes")
    try:
        envelope = {number: value for number, _, value in _fields(content[len(MAGIC) :])}
        type_meta = _message(_as_bytes(envelope[1]), "TypeMeta")
        kind = str(type_meta.get("kind", ""))
        if kind not in MESSAGES:
            raise unsupported_media_type(["application/json", "application/yaml"])
        return {**type_meta, **_message(_as_bytes(envelope.get(2, b"")), kind)}
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error


def _as_bytes(value: bytes | int) -> bytes:
    if isinstance(value, bytes):
        return value
    raise bad_request("the object provided is unrecognized: a number stands where bytes are expected")


def _fields(content: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """(number, wire type, value) of each field."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, wire_type = tag >> 3, tag & 7
        value: bytes | int
        match wire_type:
            case 0:
                value, at = _varint(content, at)
            case 2:
                length, at = _varint(content, at)
                value, at = content[at : at + length], at + length
            case 1 | 5:
                width = 8 if wire_type == _FIXED64 else 4
                value, at = content[at : at + width], at + width
            case _:
                raise bad_request(f"the object provided is unrecognized: wire type {wire_type}")
        yield number, wire_type, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = content[at]
        result |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return result, at


def _message(content: bytes, name: str) -> Object:
    result: Object = {}
    for number, _, raw in _fields(content):
        field = MESSAGES[name].get(number)
        if field is None:
            continue
        if field.is_map:
            key, value = _map_entry(_as_bytes(raw), field)
            result.setdefault(field.name, {})[key] = value
        elif field.repeated:
            result.setdefault(field.name, []).append(_value(raw, field.type))
        else:
            value = _value(raw, field.type)
            if value not in ("", {}, None) and (value != 0 or field.keeps_zero):
                result[field.name] = value
    return result


def _map_entry(content: bytes, field: Field) -> tuple[str, Json]:
    parts = {number: value for number, _, value in _fields(content)}
    return _as_bytes(parts.get(1, b"")).decode(), _value(parts.get(2, b""), field.type)


def _value(raw: bytes | int, kind: str) -> Json:
    match kind, raw:
        case "text", bytes():
            return raw.decode()
        case "bytes", bytes():
            return base64.b64encode(raw).decode()
        case "bool", int():
            return bool(raw)
        case "int", int():
            return raw - 2**64 if raw >= 2**63 else raw
        case "time", bytes():
            return _time(raw)
        case "int_or_string", bytes():
            parts = {number: value for number, _, value in _fields(raw)}
            return _as_bytes(parts.get(3, b"")).decode() if parts.get(1) else parts.get(2, 0)
        case _, bytes():
            return _message(raw, kind)
    raise bad_request(f"the object provided is unrecognized: no {kind}")


def _time(raw: bytes) -> str | None:
    seconds = next((value for number, _, value in _fields(raw) if number == 1), 0)
    # Go's zero time is long before 1970, and stands for none.
    if not isinstance(seconds, int) or not 0 < seconds < 2**62:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
