"""Pods as a review carries them, with only what injection looks at.

Apart from `dynvol.api.core`, since a review shows an object before the API server has filled in names, times and defaults, and
since more of volumes and mounts matters here than once a pod runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from dynvol.api import names
from dynvol.api.core import CSIVolume
from dynvol.api.meta import Projection


class AdmittedMeta(Projection, frozen=True):
    name: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class AdmittedVolume(Projection, frozen=True):
    """A volume, with the kinds that containers can only read."""

    name: str
    csi: CSIVolume | None = None
    config_map: dict[str, object] | None = None
    secret: dict[str, object] | None = None
    projected: dict[str, object] | None = None
    downward_api: dict[str, object] | None = msgspec.field(name="downwardAPI", default=None)
    image: dict[str, object] | None = None

    @property
    def ours(self) -> bool:
        return self.csi is not None and self.csi.driver == names.DRIVER

    @property
    def attributes(self) -> Mapping[str, str]:
        return self.csi.volume_attributes if self.csi else {}

    @property
    def provider_class(self) -> str:
        return self.attributes.get(names.CLASS_ATTRIBUTE, "")

    @property
    def policy(self) -> str:
        return self.attributes.get(names.POLICY_ATTRIBUTE, names.INDEPENDENT)

    @property
    def read_only(self) -> bool:
        kinds = (self.config_map, self.secret, self.projected, self.downward_api, self.image)
        return any(kind is not None for kind in kinds) or (self.csi is not None and self.csi.read_only)


class AdmittedMount(Projection, frozen=True):
    name: str
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str = ""
    read_only: bool = False


class AdmittedContainer(Projection, frozen=True):
    name: str = ""
    volume_mounts: tuple[AdmittedMount, ...] | None = None


class AdmittedSpec(Projection, frozen=True):
    volumes: tuple[AdmittedVolume, ...] | None = None
    containers: tuple[AdmittedContainer, ...] = ()
    init_containers: tuple[AdmittedContainer, ...] | None = None


class AdmittedPod(Projection, frozen=True):
    metadata: AdmittedMeta = AdmittedMeta()
    spec: AdmittedSpec = AdmittedSpec()

    @property
    def volumes(self) -> tuple[AdmittedVolume, ...]:
        return self.spec.volumes or ()

    def containers(self) -> Iterator[tuple[str, AdmittedContainer]]:
        """Every container with its place in the patch; init containers include native sidecars."""
        for field, group in (("initContainers", self.spec.init_containers), ("containers", self.spec.containers)):
            for index, container in enumerate(group or ()):
                yield f"/spec/{field}/{index}", container

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.annotations or {}

    @property
    def asks_itself(self) -> bool:
        """Whether the pod, rather than its namespace, is why it is reviewed: it names class or root, or brings a volume of ours."""
        asked = {names.CLASS_ANNOTATION, names.ROOT_ANNOTATION} & self.annotations.keys()
        return bool(asked) or any(v.ours for v in self.volumes)
