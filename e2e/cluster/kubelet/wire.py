"""The few messages of CSI and of plugin registration that a kubelet speaks, as protobuf classes made at import.

Written from the standards' field numbers and not generated from the project's own protos, so that an error there shows
up as a disagreement here. Only what is used is named; unknown fields pass by, as protobuf has it.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int64": _Field.TYPE_INT64,
    "int32": _Field.TYPE_INT32,  # an enum is the same on the wire
}

# Message: {field: (number, type)}; a star is "repeated", "map" is map<string, string>, another word is a message.
_CSI: dict[str, dict[str, tuple[int, str]]] = {
    "Empty": {},
    "PluginInfo": {"name": (1, "string"), "vendor_version": (2, "string")},
    "RpcType": {"type": (1, "int32")},
    "Capability": {"rpc": (1, "RpcType")},
    "NodeCapabilities": {"capabilities": (1, "*Capability")},
    "Topology": {"segments": (1, "map")},
    "NodeInfo": {"node_id": (1, "string"), "max_volumes_per_node": (2, "int64"), "accessible_topology": (3, "Topology")},
    "MountVolume": {"fs_type": (1, "string"), "mount_flags": (2, "*string"), "volume_mount_group": (3, "string")},
    "AccessMode": {"mode": (1, "int32")},
    "VolumeCapability": {"mount": (2, "MountVolume"), "access_mode": (3, "AccessMode")},
    "NodePublishVolume": {
        "volume_id": (1, "string"),
        "publish_context": (2, "map"),
        "staging_target_path": (3, "string"),
        "target_path": (4, "string"),
        "volume_capability": (5, "VolumeCapability"),
        "readonly": (6, "bool"),
        "secrets": (7, "map"),
        "volume_context": (8, "map"),
    },
    "NodeUnpublishVolume": {"volume_id": (1, "string"), "target_path": (2, "string")},
    "RegistrationInfo": {
        "type": (1, "string"),
        "name": (2, "string"),
        "endpoint": (3, "string"),
        "supported_versions": (4, "*string"),
    },
    "RegistrationStatus": {"plugin_registered": (1, "bool"), "error": (2, "string")},
}


def _message(name: str, fields: dict[str, tuple[int, str]]) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    for field, (number, kind) in fields.items():
        word = kind.lstrip("*")
        repeated = kind.startswith("*") or word == "map"
        entry = message.field.add(name=field, number=number)
        entry.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
        if word in _SCALARS:
            entry.type = _SCALARS[word]
            continue
        entry.type = _Field.TYPE_MESSAGE
        entry.type_name = f".wire.{word}"
        if word == "map":
            entry.type_name = f".wire.{name}.{_map_entry(message, field)}"
    return message


def _map_entry(message: descriptor_pb2.DescriptorProto, field: str) -> str:
    """A map is, to protobuf, a repeated message of key and value that is marked as a map's entry."""
    name = "".join(word.capitalize() for word in field.split("_")) + "Entry"
    entry = _message(name, {"key": (1, "string"), "value": (2, "string")})
    entry.options.map_entry = True
    message.nested_type.append(entry)
    return name


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="wire.proto", package="wire", syntax="proto3")
    file.message_type.extend(_message(name, fields) for name, fields in _CSI.items())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"wire.{name}")) for name in _CSI}


_made = _classes()
Empty = _made["Empty"]
PluginInfo = _made["PluginInfo"]
NodeCapabilities = _made["NodeCapabilities"]
NodeInfo = _made["NodeInfo"]
VolumeCapability = _made["VolumeCapability"]
NodePublishVolume = _made["NodePublishVolume"]
NodeUnpublishVolume = _made["NodeUnpublishVolume"]
RegistrationInfo = _made["RegistrationInfo"]
RegistrationStatus = _made["RegistrationStatus"]
