"""The node that pods run on, as their workers see it: one value with all the collaborators and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.api import ApiClient
from e2e.cluster.kubelet import addresses, environment, podspec
from e2e.cluster.kubelet.events import Events
from e2e.cluster.kubelet.runtime import Runtime
from e2e.cluster.kubelet.volumes import Volumes


@dataclass(frozen=True, slots=True)
class Timing:
    """Kubelet's delays, in seconds; tests shorten them."""

    crash_backoff: float = 10.0
    crash_backoff_cap: float = 300.0
    mount_backoff: float = 0.5
    mount_backoff_cap: float = 122.0
    refresh: float = 10.0


@dataclass(frozen=True, slots=True)
class Host:
    api: ApiClient
    runtime: Runtime
    volumes: Volumes
    events: Events
    images: podspec.Images
    addresses: addresses.Pool
    host_ip: str
    allocatable: Mapping[str, str]
    services: Mapping[str, str]
    evictions: Path
    """A file here that is named like a pod's uid has the pod evicted, as when the node runs out of something."""
    timing: Timing = Timing()

    def pod_ip(self, uid: str) -> str:
        """Pods on the host's network have an address of their own here too, or two nodes' pods would collide."""
        return self.addresses.of(uid)

    def facts(self, uid: str) -> environment.Facts:
        return environment.Facts(self.pod_ip(uid), self.host_ip, self.allocatable, self.services)
