"""Objects as `kubectl get` prints them: a Table of columns and cells."""

from __future__ import annotations

from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.status import Object


def columns(resource: Resource) -> list[Object]:
    return [{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}]


def cells(resource: Resource, body: Object) -> list[object]:
    return [body["metadata"]["name"]]
