"""StorageProviderClass: the provider, its credentials and what its mount pods may use (design §3). The schema is config/crd."""

from __future__ import annotations

from typing import Final

from . import names
from .meta import Condition, ObjectMeta, Projection

OF_CLASSES: Final = {
    "mounter": names.MOUNTER_PARAMETER,
    "options": names.OPTIONS_PARAMETER,
    "allowedOptions": names.RCLONE_OPTIONS_PARAMETER,
}
"""Parameters of a mount that are a class's to set and never a claim's, and the keys by which it does."""
ANONYMOUS: Final = "anonymous"
"""The parameter of a mount for which neither class nor claim names a Secret."""


class ClassSpec(Projection, frozen=True):
    provider: str
    parameters: dict[str, str] = {}

    @property
    def mount_parameters(self) -> dict[str, str]:
        """What the class says of each of its mounts, as providers take it (`WantedMount.parameters`)."""
        return {name: value for name, key in OF_CLASSES.items() if (value := self.parameters.get(key, ""))}

    @property
    def prepares_mount_pods(self) -> bool:
        return self.provider != names.PVC and self.parameters.get(names.MOUNT_POD_PARAMETER) == names.PREPARED

    @property
    def secret(self) -> tuple[str, str]:
        """Namespace and name of the Secret with the credentials; both empty if the class names none."""
        return self.parameters.get(names.SECRET_NAMESPACE_PARAMETER, ""), self.parameters.get(names.SECRET_NAME_PARAMETER, "")


class ClassStatus(Projection, frozen=True):
    observed_generation: int = 0
    pods: int = 0
    mount_pods: int = 0
    credentials_digest: str = ""
    """Changes with what the class's Secret holds, as the leader saw it last; empty while that cannot be used."""
    conditions: tuple[Condition, ...] = ()


class StorageProviderClass(Projection, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: ClassSpec
    status: ClassStatus = ClassStatus()

    @property
    def credentials_digest(self) -> str:
        """The status's, unless it speaks of an earlier spec, which may have named another Secret."""
        return self.status.credentials_digest if self.status.observed_generation == self.metadata.generation else ""
