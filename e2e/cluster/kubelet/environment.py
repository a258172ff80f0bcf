"""What a container's process is told: its environment and arguments, and the fields of the downward API.

Pure, given the ConfigMaps and Secrets that it names. The rules of `$(NAME)` and of precedence are the API's: a later
variable wins over an earlier one, `env` over `envFrom`, and an unknown `$(NAME)` stays as it is written.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from e2e.cluster.kubelet import quantity

Object = dict[str, Any]

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_KEYED = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


class ConfigError(Exception):
    """The container cannot be configured (a missing Secret, key or field): kubelet's CreateContainerConfigError."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pod's object does not say, or not yet."""

    pod_ip: str
    host_ip: str
    allocatable: Mapping[str, str]
    services: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sources:
    """The named ConfigMaps and Secrets; None where one does not exist."""

    config_maps: Mapping[str, Object | None]
    secrets: Mapping[str, Object | None]


def secret_values(secret: Object) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}


def config_map_values(config_map: Object) -> dict[str, bytes]:
    texts = {key: value.encode() for key, value in (config_map.get("data") or {}).items()}
    blobs = {key: base64.b64decode(value) for key, value in (config_map.get("binaryData") or {}).items()}
    return texts | blobs


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` where NAME is known; `$$` is a dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(replacement, text)


def command_line(container: Object, entrypoint: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """`command` replaces the image's entrypoint; `args` follow either."""
    command = container.get("command") or list(entrypoint)
    line = [expand(word, variables) for word in (*command, *(container.get("args") or ()))]
    if not line:
        raise ConfigError("no command: the image has no entrypoint here, and the container names none")
    return line


def variables(pod: Object, container: Object, facts: Facts, sources: Sources) -> dict[str, str]:
    """The container's whole environment, in the order of precedence."""
    found = dict(facts.services)
    for source in container.get("envFrom") or ():
        found |= _from_source(source, sources)
    for variable in container.get("env") or ():
        value = _value(variable, pod, container, facts, sources, found)
        if value is not None:
            found[variable["name"]] = value
    return found


def _from_source(source: Object, sources: Sources) -> dict[str, str]:
    prefix = source.get("prefix", "")
    if reference := source.get("secretRef"):
        values = _named(sources.secrets, reference, "secret")
        data = secret_values(values) if values else {}
    else:
        reference = source["configMapRef"]
        values = _named(sources.config_maps, reference, "configmap")
        data = config_map_values(values) if values else {}
    return {prefix + key: value.decode(errors="replace") for key, value in data.items() if _VARIABLE.fullmatch(key)}


def _named(known: Mapping[str, Object | None], reference: Object, kind: str) -> Object | None:
    found = known.get(reference["name"])
    if found is None and not reference.get("optional"):
        raise ConfigError(f'{kind} "{reference["name"]}" not found')
    return found


def _value(
    variable: Object, pod: Object, container: Object, facts: Facts, sources: Sources, before: Mapping[str, str]
) -> str | None:
    origin = variable.get("valueFrom")
    if not origin:
        return expand(variable.get("value", ""), before)
    if reference := origin.get("fieldRef"):
        return field(pod, reference["fieldPath"], facts)
    if reference := origin.get("resourceFieldRef"):
        return resource(pod, reference, facts, default=container)
    if reference := origin.get("secretKeyRef"):
        secret = _named(sources.secrets, reference, "secret")
        return _key(secret_values(secret) if secret else None, reference, "Secret")
    reference = origin["configMapKeyRef"]
    config_map = _named(sources.config_maps, reference, "configmap")
    return _key(config_map_values(config_map) if config_map else None, reference, "ConfigMap")


def _key(values: dict[str, bytes] | None, reference: Object, kind: str) -> str | None:
    if values is not None and reference["key"] in values:
        return values[reference["key"]].decode(errors="replace")
    if reference.get("optional"):
        return None
    raise ConfigError(f"couldn't find key {reference['key']} in {kind} {reference['name']}")


def field(pod: Object, field_path: str, facts: Facts) -> str:
    """A field of the downward API, as one string."""
    metadata, spec = pod["metadata"], pod["spec"]
    if keyed := _KEYED.fullmatch(field_path):
        return str((metadata.get(keyed[1]) or {}).get(keyed[2], ""))
    match field_path:
        case "metadata.name" | "metadata.namespace" | "metadata.uid":
            return str(metadata[field_path.split(".")[1]])
        case "metadata.labels" | "metadata.annotations":
            pairs = metadata.get(field_path.split(".")[1]) or {}
            return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(pairs.items()))
        case "spec.nodeName" | "spec.serviceAccountName":
            return str(spec.get(field_path.split(".")[1], ""))
        case "status.podIP" | "status.podIPs":
            return facts.pod_ip
        case "status.hostIP" | "status.hostIPs":
            return facts.host_ip
    raise ConfigError(f"unsupported fieldPath: {field_path}")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def resource(pod: Object, reference: Object, facts: Facts, *, default: Object | None = None) -> str:
    """A container's request or limit, in units of the divisor; without a limit it is what the node can give."""
    named = reference.get("containerName")
    spec = pod["spec"]
    everyone = [*(spec.get("initContainers") or ()), *spec["containers"]]
    container = next((each for each in everyone if each["name"] == named), default)
    if container is None:
        raise ConfigError(f"container {named} not found")
    kind, _, name = reference["resource"].partition(".")
    given = (container.get("resources") or {}).get(kind) or {}
    amount = given.get(name, facts.allocatable.get(name, "0") if kind == "limits" else "0")
    return str(quantity.divided(amount, reference.get("divisor") or "1"))
