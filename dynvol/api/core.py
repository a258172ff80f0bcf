"""Projections of Kubernetes' own types."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .meta import ObjectMeta, Projection


class CSIVolume(Projection, frozen=True):
    driver: str = ""
    read_only: bool = False
    volume_attributes: dict[str, str] = {}


class PersistentVolumeClaimSource(Projection, frozen=True):
    claim_name: str = ""


class Volume(Projection, frozen=True):
    name: str = ""
    csi: CSIVolume | None = None
    persistent_volume_claim: PersistentVolumeClaimSource | None = None


class VolumeMount(Projection, frozen=True):
    name: str = ""
    mount_path: str = ""
    sub_path: str = ""
    mount_propagation: str = ""


class SecurityContext(Projection, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None


class Resources(Projection, frozen=True):
    limits: dict[str, str] = {}


class Container(Projection, frozen=True):
    name: str = ""
    image: str = ""
    volume_mounts: tuple[VolumeMount, ...] = ()
    security_context: SecurityContext = SecurityContext()
    resources: Resources = Resources()


class PodSpec(Projection, frozen=True):
    node_name: str = ""
    volumes: tuple[Volume, ...] = ()
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    security_context: SecurityContext = SecurityContext()


class TerminatedState(Projection, frozen=True):
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class WaitingState(Projection, frozen=True):
    reason: str = ""
    message: str = ""


class RunningState(Projection, frozen=True):
    started_at: str = ""


class ContainerState(Projection, frozen=True):
    waiting: WaitingState | None = None
    running: RunningState | None = None
    terminated: TerminatedState | None = None


class ContainerStatus(Projection, frozen=True):
    name: str = ""
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodCondition(Projection, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class PodStatus(Projection, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[PodCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def finished(self) -> bool:
        """All containers have ended for good; kubelet has nothing of it running and never will again."""
        return self.status.phase in ("Succeeded", "Failed")


class PersistentVolumeClaimSpec(Projection, frozen=True):
    access_modes: tuple[str, ...] = ()
    volume_mode: str = "Filesystem"


class PersistentVolumeClaimStatus(Projection, frozen=True):
    phase: str = ""


class PersistentVolumeClaim(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()
    status: PersistentVolumeClaimStatus = PersistentVolumeClaimStatus()


class EventSeries(Projection, frozen=True):
    last_observed_time: str | None = None


class Event(Projection, frozen=True):
    """What another component said of an object. Which of the times is set depends on who said it."""

    metadata: ObjectMeta = ObjectMeta()
    type: str = ""
    reason: str = ""
    message: str = ""
    last_timestamp: str | None = None
    event_time: str | None = None
    series: EventSeries | None = None


class Secret(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A Secret's bytes. `repr()` never shows them."""

    metadata: ObjectMeta = ObjectMeta()
    data: dict[str, bytes] = {}
    type: str = "Opaque"

    def __repr__(self) -> str:
        return f"Secret({self.metadata.key}, keys={sorted(self.data)})"


class Taint(Projection, frozen=True):
    key: str = ""
    effect: str = ""


class NodeSpec(Projection, frozen=True):
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeCondition(Projection, frozen=True):
    type: str = ""
    status: str = ""


class NodeStatus(Projection, frozen=True):
    conditions: tuple[NodeCondition, ...] = ()


class Node(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        """Whether its kubelet works, as far as the cluster knows."""
        return any(condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions)


class Namespace(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()


class Bare(Projection, frozen=True):
    """Of a kind of which nothing is read but its metadata."""

    metadata: ObjectMeta = ObjectMeta()


class LeaseSpec(Projection, frozen=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Projection, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: LeaseSpec = LeaseSpec()


def matches(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether `labels` carries every pair of `wanted`."""
    return all(labels.get(k) == v for k, v in wanted.items())
