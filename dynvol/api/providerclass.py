"""StorageProviderClass: the provider, its credentials and what its mount pods may use (design §3). The schema is config/crd."""

from __future__ import annotations

from .meta import Condition, ObjectMeta, Projection


class ClassSpec(Projection, frozen=True):
    provider: str
    parameters: dict[str, str] = {}


class ClassStatus(Projection, frozen=True):
    observed_generation: int = 0
    pods: int = 0
    mount_pods: int = 0
    conditions: tuple[Condition, ...] = ()


class StorageProviderClass(Projection, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: ClassSpec
    status: ClassStatus = ClassStatus()
