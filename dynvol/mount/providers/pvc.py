"""A PersistentVolumeClaim of the pod's own namespace, whatever its StorageClass.

Kubelet mounts the volume, for a holder pod, and the node process shows it in the pods that want it (`controllers.held`). So
there is no program to run and there are no credentials: of what providers do, only judging what users write is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from dynvol.mount.errors import UnsafePath
from dynvol.mount.paths import components

from .contract import Client, Credentials, Finding, Target, Unusable

_CLAIM_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_OWNER: Final = {"uid": "uid", "umask": "umask", "claimOptions": "mountOptions"}
"""Parameters that claims give, and the fields of the claim that they come from."""


class PVC:
    secret_keys: tuple[str, ...] = ()
    optional_keys: tuple[str, ...] | None = ()
    sends_secrets = False
    in_kernel = False
    serves_anyone = True

    def validate(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(_problems(parameters))

    def validate_class(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(f"parameter {key} is for FUSE clients; provider pvc has none" for key in sorted(parameters))

    def target(self, parameters: Mapping[str, str]) -> Target:
        return Target(endpoint="", bucket=parameters.get("claimName", ""))

    def unflushed(self, parameters: Mapping[str, str], *, cache: str) -> int:
        return 0

    def client(self, parameters: Mapping[str, str], *, read_only: bool, credentials: Credentials) -> Client:
        raise Unusable(Finding("UnknownProvider", NOT_HERE))


NOT_HERE: Final = "provider pvc shows volumes that Kubernetes mounts: claims in a cluster can use it, a mounter cannot"


def _problems(parameters: Mapping[str, str]) -> Iterator[str]:
    if not _CLAIM_NAME.fullmatch(name := parameters.get("claimName", "")):
        yield f"spec.pvcConfig.claimName: {name[:64]!r} cannot be the name of a PersistentVolumeClaim"
    if sub_path := parameters.get("subPath", ""):
        try:
            components(sub_path)
        except UnsafePath as error:
            yield f"spec.pvcConfig.subPath: {error}"
    for parameter, field in _OWNER.items():
        if parameter in parameters:
            yield f"spec.{field}: a volume's files keep their owner and mode, and it has no client that takes options; leave it out"
