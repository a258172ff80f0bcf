"""Custom resources against their structural schemas: pruning, defaults, validation, in the real server's words."""

from __future__ import annotations

from collections.abc import Iterator

from e2e.cluster.apiserver.resources import Resource
from e2e.cluster.apiserver.shape import Shape
from e2e.cluster.apiserver.status import FieldError, Object


def pruned(body: Object, shape: Shape, unknown: list[str]) -> Object:
    return body


def default(body: Object, shape: Shape) -> None:
    return


def problems(resource: Resource, body: Object, old: Object | None, shape: Shape) -> Iterator[FieldError]:
    yield from ()
