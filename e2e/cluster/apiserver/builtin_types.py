"""The schemas of the built-in kinds, in the OpenAPI form in which custom ones come.

They are derived from the models of the Kubernetes client that dynvol uses anyway, so that no copy of Kubernetes' own document
lies here. What those models do not say, namely how lists merge, is in the tables below. Deriving takes half a second and tens of
megabytes, so a fresh interpreter does it and the result is kept in the state folder.

    python -m e2e.cluster.apiserver.builtin_types FILE
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from e2e.cluster.apiserver.resources import BUILT_IN, Resource
from e2e.cluster.apiserver.status import Object

FORMAT = 6
"""Counts up when what this module derives changes, so that a file of an older make is not used."""

QUANTITIES = {
    "V1ResourceRequirements": ("limits", "requests"),
    "V1VolumeResourceRequirements": ("limits", "requests"),
    "V1NodeStatus": ("capacity", "allocatable"),
    "V1PersistentVolumeSpec": ("capacity",),
    "V1PersistentVolumeClaimStatus": ("capacity", "allocatedResources"),
    "V1EmptyDirVolumeSource": ("sizeLimit",),
    "V1ResourceFieldSelector": ("divisor",),
    "V1PodSpec": ("overhead",),
    "V1ContainerStatus": ("allocatedResources",),
    "V1CSIStorageCapacity": ("capacity", "maximumVolumeSize"),
}
"""Fields that take a number as well as text."""

LISTS: dict[str, dict[str, tuple[str, ...]]] = {
    "V1ObjectMeta": {"ownerReferences": ("uid",)},
    "V1PodSpec": {
        "containers": ("name",),
        "initContainers": ("name",),
        "ephemeralContainers": ("name",),
        "volumes": ("name",),
        "imagePullSecrets": ("name",),
        "hostAliases": ("ip",),
        "resourceClaims": ("name",),
        "schedulingGates": ("name",),
        "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    },
    **{
        container: {
            "env": ("name",),
            "ports": ("containerPort", "protocol"),
            "volumeMounts": ("mountPath",),
            "volumeDevices": ("devicePath",),
        }
        for container in ("V1Container", "V1EphemeralContainer")
    },
    "V1ResourceRequirements": {"claims": ("name",)},
    "V1PodStatus": {"podIPs": ("ip",), "resourceClaimStatuses": ("name",)},
    "V1ServiceSpec": {"ports": ("port", "protocol")},
    "V1ServiceAccount": {"secrets": ("name",)},
    "V1NodeStatus": {"addresses": ("type",), "volumesAttached": ("name",)},
    "V1CSINodeSpec": {"drivers": ("name",)},
    "V1MutatingWebhookConfiguration": {"webhooks": ("name",)},
    "V1ValidatingWebhookConfiguration": {"webhooks": ("name",)},
    "V1MutatingWebhook": {"matchConditions": ("name",)},
    "V1ValidatingWebhook": {"matchConditions": ("name",)},
    "V1ValidatingAdmissionPolicySpec": {"matchConditions": ("name",), "variables": ("name",)},
}
"""Lists that are maps, and the keys that name their elements. Every `conditions` is one too, by `type`."""

INT_OR_STRING = {
    "V1HTTPGetAction": ("port",),
    "V1TCPSocketAction": ("port",),
    "V1ServicePort": ("targetPort",),
    "V1RollingUpdateDeployment": ("maxSurge", "maxUnavailable"),
    "V1RollingUpdateDaemonSet": ("maxSurge", "maxUnavailable"),
    "V1RollingUpdateStatefulSetStrategy": ("maxUnavailable",),
    "V1PodDisruptionBudgetSpec": ("minAvailable", "maxUnavailable"),
    "V1NetworkPolicyPort": ("port",),
}

SETS = {"V1ObjectMeta": ("finalizers",), "V1NodeSpec": ("podCIDRs",)}

REPLACED_BY_PATCH = {"V1ServiceAccount": (), "V1PodSpec": ("schedulingGates",)}
"""List maps that only server-side apply merges."""

ATOMIC = frozenset(
    {
        "V1LabelSelector",
        "V1LocalObjectReference",
        "V1TypedLocalObjectReference",
        "V1ObjectReference",
        "V1SecretReference",
        "V1SecretKeySelector",
        "V1ConfigMapKeySelector",
        "V1ObjectFieldSelector",
        "V1ResourceFieldSelector",
        "V1NodeSelector",
        "V1NodeSelectorTerm",
        "V1RoleRef",
        "RbacV1Subject",
    }
)
ATOMIC_FIELDS = {"V1PodSpec": ("nodeSelector",), "V1ServiceSpec": ("selector",)}
RETAIN_KEYS = {"V1PodSpec": ("volumes",), "V1DeploymentSpec": ("strategy",)}

KEY_DEFAULTS = {("V1ContainerPort", "protocol"): "TCP", ("V1ServicePort", "protocol"): "TCP"}
"""Defaults of list-map keys, which elements that leave them out are named by."""

MODELS = {
    ("", "Event"): "CoreV1Event",
    ("events.k8s.io", "Event"): "EventsV1Event",
    ("resource.k8s.io", "ResourceClaim"): "ResourceV1ResourceClaim",
    ("authentication.k8s.io", "TokenRequest"): "AuthenticationV1TokenRequest",
}

_SCALARS: dict[str, Object] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "datetime": {"type": "string", "format": "date-time"},
    "bytes": {"type": "string", "format": "byte"},
    "object": {"x-kubernetes-preserve-unknown-fields": True},
}


def load(cache: Path) -> dict[str, Object]:
    """All definitions, by the model's name."""
    if cache.exists():
        stored = msgspec.json.decode(cache.read_bytes())
        if stored.get("format") == FORMAT:
            return stored["definitions"]  # type: ignore[no-any-return]
    subprocess.run([sys.executable, "-m", __name__, str(cache)], check=True)
    return msgspec.json.decode(cache.read_bytes())["definitions"]  # type: ignore[no-any-return]


def model_name(resource: Resource) -> str:
    return MODELS.get((resource.group, resource.kind), f"V1{resource.kind}")


def derive() -> dict[str, Object]:
    from kubernetes_asyncio.client import models

    definitions: dict[str, Object] = {}
    waiting = [model_name(resource) for resource in BUILT_IN]
    waiting += ["V1Scale", "V1Eviction", "V1Binding", "AuthenticationV1TokenRequest", "V1DeleteOptions", "V1Status"]
    while waiting:
        name = waiting.pop()
        model = getattr(models, name, None)
        if name in definitions or model is None:
            continue
        definitions[name] = _definition(name, model)
        waiting += re.findall(r"#/definitions/(\w+)", str(definitions[name]))
    return definitions


def _definition(name: str, model: Any) -> Object:
    properties: Object = {}
    required: list[str] = []
    for attribute, type_name in model.openapi_types.items():
        accessor = getattr(model, attribute)
        json_name = model.attribute_map[attribute]
        properties[json_name] = _described(_property(name, json_name, type_name), accessor.fget.__doc__)
        if any("must not be `None`" in str(constant) for constant in accessor.fset.__code__.co_consts):
            required.append(json_name)
    definition: Object = {"type": "object", "properties": properties, "x-go-type": re.sub(r"^([A-Z][a-z]+)?V1", "", name)}
    if required:
        definition["required"] = required
    if name in ATOMIC:
        definition["x-kubernetes-map-type"] = "atomic"
    return definition


def _described(schema: Object, docstring: str) -> Object:
    """The description stands between the docstring's first line and its `:return:`."""
    text = docstring.partition("\n")[2].partition(":return:")[0].replace("# noqa: E501", "")
    text = " ".join(text.split()).replace('\\"', '"')
    return schema | {"description": text} if text else schema


def _property(model: str, name: str, type_name: str) -> Object:
    schema = _schema(type_name)
    if name in QUANTITIES.get(model, ()):
        quantity = {"type": "string", "x-quantity": True}
        schema = schema | {"additionalProperties": quantity} if type_name.startswith("dict") else quantity
    if name in INT_OR_STRING.get(model, ()):
        schema = {"x-kubernetes-int-or-string": True}
    if default := KEY_DEFAULTS.get((model, name)):
        schema["default"] = default
    if name in ATOMIC_FIELDS.get(model, ()):
        schema["x-kubernetes-map-type"] = "atomic"
    if type_name.startswith("list"):
        schema |= _list_extensions(model, name)
    if name in RETAIN_KEYS.get(model, ()):
        merges = "merge," if "x-kubernetes-patch-merge-key" in schema else ""
        schema["x-kubernetes-patch-strategy"] = f"{merges}retainKeys"
    return schema


def _schema(type_name: str) -> Object:
    if scalar := _SCALARS.get(type_name):
        return dict(scalar)
    if match := re.fullmatch(r"list\[(.+)\]", type_name):
        return {"type": "array", "items": _schema(match[1])}
    if match := re.fullmatch(r"dict\(str, (.+)\)", type_name):
        return {"type": "object", "additionalProperties": _schema(match[1])}
    return {"$ref": f"#/definitions/{type_name}"}


def _list_extensions(model: str, name: str) -> Object:
    keys = ("type",) if name == "conditions" else LISTS.get(model, {}).get(name)
    if name in SETS.get(model, ()):
        return {"x-kubernetes-list-type": "set", "x-kubernetes-patch-strategy": "merge"}
    if keys is None:
        return {"x-kubernetes-list-type": "atomic"}
    extensions: Object = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
    if name not in REPLACED_BY_PATCH.get(model, ()):
        extensions |= {"x-kubernetes-patch-merge-key": keys[0], "x-kubernetes-patch-strategy": "merge"}
    return extensions


if __name__ == "__main__":
    target = Path(sys.argv[1])
    draft = target.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode({"format": FORMAT, "definitions": derive()}))
    draft.replace(target)
