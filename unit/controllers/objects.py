"""Short ways to write the API objects that the controllers' tests are about."""

from __future__ import annotations

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, ClaimStatus, DynamicVolumeClaim, LabelSelector, PodMount, S3Config
from dynvol.api.core import (
    Container,
    ContainerState,
    ContainerStatus,
    CSIVolume,
    Pod,
    PodSpec,
    PodStatus,
    RunningState,
    SecurityContext,
    Volume,
    VolumeMount,
)
from dynvol.api.meta import ObjectMeta
from dynvol.api.providerclass import ClassSpec, StorageProviderClass

NODE = "node-a"


def claim(
    name: str = "data",
    *,
    mountpoint: str = "/data",
    namespace: str = "apps",
    labels: dict[str, str] | None = None,
    provider_class: str = "",
    created: str = "2026-01-01T00:00:00Z",
    deleting: bool = False,
    generation: int = 1,
    pods: tuple[PodMount, ...] = (),
    uid: int | None = None,
    gid: int | None = None,
    umask: str = "",
    s3: S3Config | None = S3Config(bucket="bucket", endpoint="http://s3"),
) -> DynamicVolumeClaim:
    return DynamicVolumeClaim(
        metadata=ObjectMeta(
            name=name,
            namespace=namespace,
            uid=f"uid-{name}",
            resource_version="1",
            generation=generation,
            creation_timestamp=created,
            deletion_timestamp="2026-01-02T00:00:00Z" if deleting else None,
        ),
        spec=ClaimSpec(
            mountpoint=mountpoint,
            selector=LabelSelector(match_labels=labels if labels is not None else {"app": "web"}),
            storage_provider_class=provider_class,
            s3_config=s3,
            uid=uid,
            gid=gid,
            umask=umask,
        ),
        status=ClaimStatus(pods=pods),
    )


def volume(provider_class: str = "s3-sample", *, name: str = names.VOLUME_NAME, policy: str = "") -> Volume:
    attributes = {names.CLASS_ATTRIBUTE: provider_class} | ({names.POLICY_ATTRIBUTE: policy} if policy else {})
    return Volume(name=name, csi=CSIVolume(driver=names.DRIVER, read_only=True, volume_attributes=attributes))


def pod(
    name: str = "web-1",
    *,
    namespace: str = "apps",
    labels: dict[str, str] | None = None,
    volumes: tuple[Volume, ...] = (volume(),),
    phase: str = "Running",
    deleting: bool = False,
    node: str = NODE,
    security: SecurityContext = SecurityContext(),
    container_security: SecurityContext = SecurityContext(),
) -> Pod:
    mounts = tuple(VolumeMount(name=v.name, mount_path=f"/root-{i}") for i, v in enumerate(volumes))
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace=namespace,
            uid=f"uid-{name}",
            labels=labels if labels is not None else {"app": "web"},
            deletion_timestamp="2026-01-02T00:00:00Z" if deleting else None,
        ),
        spec=PodSpec(
            node_name=node,
            volumes=volumes,
            containers=(Container(name="app", volume_mounts=mounts, security_context=container_security),),
            security_context=security,
        ),
        status=PodStatus(phase=phase),
    )


def provider_class(name: str = "s3-sample", *, provider: str = "s3", **parameters: str) -> StorageProviderClass:
    return StorageProviderClass(
        metadata=ObjectMeta(name=name, uid=f"uid-{name}", generation=1, resource_version="1"),
        spec=ClassSpec(provider=provider, parameters={f"{names.GROUP}/{k.replace('_', '-')}": v for k, v in parameters.items()}),
    )


def running() -> tuple[ContainerStatus, ...]:
    return (ContainerStatus(name="mounter", ready=True, state=ContainerState(running=RunningState(started_at="now"))),)


CLASSES = {"s3-sample": provider_class()}
