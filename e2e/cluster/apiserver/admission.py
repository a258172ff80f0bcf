"""Admission: what may change an object on its way in, or refuse it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from e2e.cluster.apiserver.request import Call, Target
from e2e.cluster.apiserver.status import Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    operation: str
    target: Target
    call: Call
    object: Object | None
    old: Object | None

    def with_object(self, body: Object) -> Attributes:
        return replace(self, object=body)


class Admission:
    async def mutate(self, attributes: Attributes) -> Object:
        return attributes.object or {}

    async def validate(self, attributes: Attributes) -> None:
        return
