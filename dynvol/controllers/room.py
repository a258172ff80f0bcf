"""How many mounts one mount pod has room for: its annotation for so many words, its memory for so many clients.

What is too much is refused, with a sentence. Nothing else would refuse it: an API server drops an annotation that is too long
together with all that it said, and a kernel that is out of memory kills a client that serves, for whoever comes next.
Pure; it says nothing of what a client needs to be quick.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from dynvol.api import names, quantities
from dynvol.api.core import Pod
from dynvol.api.mounts import WantedMount, encode
from dynvol.api.providerclass import StorageProviderClass

MIB: Final = 1 << 20

_WORDS: Final = names.ANNOTATION_LIMIT * 2 // 5
"""Bytes of mounts that a mount pod is told of at most. The report that comes back is of like size, so each of the two annotations
gets somewhat less than half of what the API allows."""

_NEEDS: Final = {"s3fs": (21 * MIB, 3 * MIB), "rclone": (32 * MIB, 32 * MIB), "nfs": (21 * MIB, 8 * MIB)}
"""Client → bytes that a mount pod takes before any, and with each; of a client that is not here nothing is known. Measured in a
mount pod's control group: 200 of s3fs that nobody uses took 511 MiB. The smallest class, of 50Mi, holds nine with room to work.
Of nfs it is what the program that stands for a mount has to itself; what the kernel caches goes when it must."""


@dataclass(slots=True)
class Load:
    """What a mount pod carries, mount by mount. `limit` is its memory in bytes, None where nothing limits it."""

    limit: int | None
    _clients: set[str] = field(default_factory=set)
    """By the source of what they mount: pods that share a mount pod share them too."""
    _words: int = 0
    _memory: int = 0

    def shortage(self, mount: WantedMount) -> str:
        """Why there is no room for `mount` too, as a sentence for the user; empty if there is. One alone is always tried."""
        if self._words + size(mount) > _WORDS:
            return "this pod's mount pod cannot be told of more mounts; let fewer claims reach one pod"
        base, each = _needs(mount)
        if self.limit is None or mount.source in self._clients or not self._clients:
            return ""
        if base + self._memory + each <= self.limit:
            return ""
        return (
            f"the memory of this pod's mount pod, {self.limit // MIB}Mi, holds no more than {len(self._clients)} mounts with "
            f"{_client(mount)}; let fewer claims reach one pod, or give its class a mount-memory-limit of {each // MIB}Mi more "
            "for each mount, and delete the mount pod, so that it is made anew"
        )

    def add(self, mount: WantedMount) -> None:
        self._words += size(mount)
        self._memory += 0 if mount.source in self._clients else _needs(mount)[1]
        self._clients.add(mount.source)

    @classmethod
    def of(cls, mounts: Iterable[WantedMount], *, limit: int | None) -> Load:
        load = cls(limit)
        for mount in mounts:
            load.add(mount)
        return load


def memory_limit(mount_pod: Pod | None, provider_class: StorageProviderClass | None) -> int | None:
    """Bytes that a mount pod may use: what it was made with, where it is made, else what its class says now."""
    if mount_pod is not None:
        texts = [container.resources.limits.get("memory", "") for container in mount_pod.spec.containers]
    else:
        texts = [provider_class.spec.parameters.get(names.MEMORY_LIMIT_PARAMETER, "")] if provider_class else []
    amounts = [amount for text in texts if (amount := quantities.parse(text))]
    return int(min(amounts)) if amounts else None


def size(mount: WantedMount) -> int:
    """Bytes that it takes in an annotation, its comma included."""
    return len(encode([mount]).encode())


def _needs(mount: WantedMount) -> tuple[int, int]:
    return _NEEDS.get(_client(mount), (0, 0))


def _client(mount: WantedMount) -> str:
    return mount.parameters.get("mounter") or ("s3fs" if mount.provider == "s3" else mount.provider)
