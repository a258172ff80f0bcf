"""DynamicVolumeClaim: which storage appears where in which pods (design §3). The schema is config/crd."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from . import names
from .meta import Condition, ObjectMeta, Projection
from .providerclass import ANONYMOUS, OF_CLASSES, ClassSpec


class LabelSelectorRequirement(Projection, frozen=True):
    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """metav1.LabelSelectorRequirement. An operator that this version does not know matches nothing."""
        match self.operator:
            case "In":
                return self.key in labels and labels[self.key] in self.values
            case "NotIn":
                return self.key not in labels or labels[self.key] not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
            case _:
                return False


class LabelSelector(Projection, frozen=True):
    """metav1.LabelSelector. The empty selector matches every pod."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        pairs = all(labels.get(k) == v for k, v in self.match_labels.items())
        return pairs and all(r.matches(labels) for r in self.match_expressions)


class S3Config(Projection, frozen=True):
    bucket: str
    endpoint: str = ""
    prefix: str = ""
    region: str = ""
    path_style: bool = True


class RcloneConfig(Projection, frozen=True):
    type: str
    path: str = ""
    parameters: dict[str, str] = {}
    secret_keys: dict[str, str] = {}
    """rclone's option → key of the class's Secret that has its value."""


class NFSConfig(Projection, frozen=True):
    server: str
    """A host, and a port if need be."""
    path: str
    version: str = ""
    options: str = ""
    """As `ClaimSpec.mount_options`, beside it."""


class PVCConfig(Projection, frozen=True):
    claim_name: str
    sub_path: str = ""


class SecretReference(Projection, frozen=True):
    """A Secret of the claim's own namespace."""

    name: str


class ClaimSpec(Projection, frozen=True):
    mountpoint: str
    selector: LabelSelector
    read_only: bool = False
    storage_provider: str = ""
    storage_provider_class: str = ""
    s3_config: S3Config | None = None
    rclone_config: RcloneConfig | None = None
    nfs_config: NFSConfig | None = None
    pvc_config: PVCConfig | None = None
    config: dict[str, str] | None = None
    """For providers that are not ours: what they take, as they name it."""
    credentials_secret_ref: SecretReference | None = None
    """Instead of the class's, if the class allows it."""
    uid: int | None = None
    gid: int | None = None
    mount_options: str = ""
    """For the client, as far as claims may set them: `key=value,…`."""
    umask: str = ""
    """Octal digits, as in `umask(1)`; empty: the provider's default."""

    @property
    def provider(self) -> str:
        """The provider, named or else following from which configuration is given; empty if neither."""
        if self.storage_provider:
            return self.storage_provider
        given = (
            ("s3", self.s3_config),
            ("rclone", self.rclone_config),
            (names.NFS, self.nfs_config),
            (names.PVC, self.pvc_config),
        )
        return next((name for name, config in given if config is not None), "")

    @property
    def secret(self) -> str:
        """The name of the claim's own Secret; empty if it names none."""
        return self.credentials_secret_ref.name if self.credentials_secret_ref is not None else ""

    def parameters_in(self, of_class: ClassSpec) -> dict[str, str]:
        """What claim and class together say of a mount. What the class sets is the class's."""
        anonymous = not self.secret and not any(of_class.secret)
        return self.parameters | of_class.mount_parameters | ({ANONYMOUS: "true"} if anonymous else {})

    @property
    def parameters(self) -> dict[str, str]:
        """What the claim itself says of a mount, as providers take it (`WantedMount.parameters`): judged at admission, told to
        mount pods. What it leaves open is left out."""
        owner = {key: str(value) for key, value in (("uid", self.uid), ("gid", self.gid)) if value is not None}
        options = ",".join(filter(None, (self.nfs_config.options if self.nfs_config else "", self.mount_options)))
        given = {**self._storage(), **owner, "umask": self.umask, "claimOptions": options}
        return {key: value for key, value in given.items() if value}

    def _storage(self) -> dict[str, str]:
        if (s3 := self.s3_config) is not None:
            path_style = str(s3.path_style).lower()
            return {"bucket": s3.bucket, "endpoint": s3.endpoint, "prefix": s3.prefix, "region": s3.region, "pathStyle": path_style}
        if (rclone := self.rclone_config) is not None:
            plain = {f"parameter.{name}": value for name, value in rclone.parameters.items()}
            secret = {f"secret.{name}": key for name, key in rclone.secret_keys.items()}
            return {"type": rclone.type, "path": rclone.path, **plain, **secret}
        if (nfs := self.nfs_config) is not None:
            return {"server": nfs.server, "path": nfs.path, "version": nfs.version}
        if (pvc := self.pvc_config) is not None:
            return {"claimName": pvc.claim_name, "subPath": pvc.sub_path}
        return {key: value for key, value in (self.config or {}).items() if key not in (*OF_CLASSES, ANONYMOUS)}


class PodMount(Projection, frozen=True):
    """One entry of `status.pods` (a list map keyed by `uid`); each is owned by the process of its pod's node."""

    uid: str
    pod: str
    node: str
    mount_pod: str = ""
    path: str = ""
    """The path in the pod's first container that mounts the volume."""
    phase: str = ""
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


class ClaimStatus(Projection, frozen=True):
    observed_generation: int = 0
    provider: str = ""
    """The one that is meant, also where the spec leaves it to its configuration to say."""
    desired: int = 0
    mounted: int = 0
    failed: int = 0
    summary: str = ""
    """`mounted/desired`, for the printer column."""
    pods: tuple[PodMount, ...] = ()
    conditions: tuple[Condition, ...] = ()


class DynamicVolumeClaim(Projection, frozen=True, kw_only=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: ClaimSpec
    status: ClaimStatus = ClaimStatus()


def age_order(claim: DynamicVolumeClaim) -> tuple[str, str, str]:
    """Sort key, oldest first: creation time, then namespace/name, so that every node picks the same winner of a conflict."""
    return (claim.metadata.creation_timestamp, claim.metadata.key, claim.metadata.uid)


def digest(value: object, *, digits: int = 12) -> str:
    """Hexadecimal digits that differ when `value` (anything msgspec encodes) does; order of mapping keys is ignored.

    Twelve tell the versions of one thing apart. Where things of several users must not be taken for one another, 32 are wanted.
    """
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:digits]
