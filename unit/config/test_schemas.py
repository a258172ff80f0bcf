"""The schemas of config/crd and the types of dynvol/api say the same, and `kubectl explain` has something to say of each field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.providerclass import StorageProviderClass

from .manifests import Manifest, definition, schema

PLURALS = ["dynamicvolumeclaims", "storageproviderclasses"]
TYPES: Mapping[str, type[msgspec.Struct]] = {PLURALS[0]: DynamicVolumeClaim, PLURALS[1]: StorageProviderClass}


def fields(part: Manifest, *, path: str = "") -> Iterator[tuple[str, Manifest]]:
    """Every field of a schema with its path; `[]` for a list's items, `{}` for a map's values."""
    yield path, part
    for name, child in part.get("properties", {}).items():
        yield from fields(child, path=f"{path}.{name}")
    if "items" in part:
        yield from fields(part["items"], path=f"{path}[]")
    if isinstance(part.get("additionalProperties"), dict):
        yield from fields(part["additionalProperties"], path=f"{path}{{}}")


def struct_paths(kind: type[msgspec.Struct]) -> set[tuple[str, str]]:
    """Path and JSON type of everything that a Struct decodes, but for metadata, which every object has."""
    return {found for found in _described(msgspec.json.schema(kind)) if not found[0].startswith(".metadata")}


def _described(root: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _walk(root, root["$defs"], path="")


def _walk(part: Mapping[str, Any], definitions: Mapping[str, Any], *, path: str) -> Iterator[tuple[str, str]]:
    if "$ref" in part:
        part = definitions[part["$ref"].rpartition("/")[2]]
    if "anyOf" in part:
        (part,) = (p for p in part["anyOf"] if p.get("type") != "null")
        yield from _walk(part, definitions, path=path)
        return
    if path:
        yield path, part["type"]
    for name, child in part.get("properties", {}).items():
        yield from _walk(child, definitions, path=f"{path}.{name}")
    if isinstance(part.get("items"), dict) and part["items"]:
        yield from _walk(part["items"], definitions, path=f"{path}[]")
    if isinstance(part.get("additionalProperties"), dict):
        yield from _walk(part["additionalProperties"], definitions, path=f"{path}{{}}")


@pytest.mark.parametrize("plural", PLURALS)
def test_schema_and_type_have_the_same_fields_of_the_same_types(plural: str) -> None:
    beside = {".apiVersion", ".kind", ".metadata", ""}
    in_schema = {(path, part["type"]) for path, part in fields(schema(plural)) if path not in beside}
    assert in_schema == struct_paths(TYPES[plural])


@pytest.mark.parametrize("plural", PLURALS)
def test_what_the_type_cannot_do_without_is_required_by_the_schema(plural: str) -> None:
    required = {f"{path}.{name}" for path, part in fields(schema(plural)) for name in part.get("required", ())}
    definitions = msgspec.json.schema(TYPES[plural])
    needed = {p for p in _required(definitions, definitions["$defs"], path="") if not p.startswith(".metadata")}
    assert needed <= required


def _required(part: Mapping[str, Any], definitions: Mapping[str, Any], *, path: str) -> Iterator[str]:
    if "$ref" in part:
        part = definitions[part["$ref"].rpartition("/")[2]]
    for option in part.get("anyOf", ()):
        yield from _required(option, definitions, path=path)
    yield from (f"{path}.{name}" for name in part.get("required", ()))
    for name, child in part.get("properties", {}).items():
        yield from _required(child, definitions, path=f"{path}.{name}")
    if isinstance(part.get("items"), dict):
        yield from _required(part["items"], definitions, path=f"{path}[]")


@pytest.mark.parametrize("plural", PLURALS)
def test_every_field_is_described(plural: str) -> None:
    """But for metadata, where the API server allows no description, and the bare strings of lists, which the list describes."""
    described = {path for path, part in fields(schema(plural)) if len(part.get("description", "")) >= 10}
    strings = {path for path, part in fields(schema(plural)) if path.endswith("[]") and part["type"] == "string"}
    assert {path for path, _ in fields(schema(plural))} - described - strings == {".metadata"}


@pytest.mark.parametrize("plural", PLURALS)
def test_rules_say_what_to_do(plural: str) -> None:
    rules = [(p, r) for p, part in fields(schema(plural)) for r in part.get("x-kubernetes-validations", ())]
    assert rules
    assert all(len(rule.get("message", "")) > 20 and "\n" not in rule["message"] for _, rule in rules)


@pytest.mark.parametrize("plural", PLURALS)
def test_names_are_those_of_the_api_package(plural: str) -> None:
    crd = definition(plural)
    assert crd["metadata"]["name"] == f"{plural}.{names.GROUP}"
    assert crd["spec"]["group"] == names.GROUP
    assert crd["spec"]["names"]["kind"] == TYPES[plural].__name__
    assert [v["name"] for v in crd["spec"]["versions"]] == [names.VERSION]
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_status_entries_are_merged_by_the_keys_that_their_writers_own() -> None:
    status = schema("dynamicvolumeclaims")["properties"]["status"]["properties"]
    assert status["pods"]["x-kubernetes-list-map-keys"] == ["uid"]
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]


def test_every_list_and_map_says_how_it_is_merged() -> None:
    for plural in PLURALS:
        unsaid = [p for p, part in fields(schema(plural)) if part["type"] == "array" and "x-kubernetes-list-type" not in part]
        assert unsaid == []


def test_every_column_shows_a_field_that_there_is() -> None:
    for plural in PLURALS:
        present = {path for path, _ in fields(schema(plural))}
        (version,) = definition(plural)["spec"]["versions"]
        for column in version["additionalPrinterColumns"]:
            plain = column["jsonPath"].replace('[?(@.type=="Ready")]', "[]")
            assert plain in present or plain == ".metadata.creationTimestamp"
