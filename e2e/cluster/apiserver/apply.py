"""Server-side apply and the ownership of fields."""

from __future__ import annotations

from e2e.cluster.apiserver import patch
from e2e.cluster.apiserver.request import Call, Target
from e2e.cluster.apiserver.status import Object
from e2e.cluster.apiserver.types import Types


def track(types: Types, target: Target, call: Call, old: Object | None, new: Object) -> None:
    return


def merge(types: Types, target: Target, call: Call, live: Object, intent: Object) -> Object:
    result: Object = patch.merge_patch(live, intent)
    return result
