"""The Secret copies, one for each mount pod, which mounts it: what its class and its claims give it to open the storage with.

Nobody watches Secrets, so that a copy is known by what was written last. It goes with its mount pod, which owns it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from dynvol.api.core import Pod, Secret
from dynvol.api.identity import Workload
from dynvol.api.mounts import Phase
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import SECRETS
from dynvol.kube.client import KubeClient
from dynvol.kube.errors import NotFound
from dynvol.mount import providers

from .credentials import OwnSecrets
from .mountpodspec import CREDENTIALS_DIGEST, credentials_digest, secret_copy
from .status import container_runs
from .view import reported

REWRITE: Final = 300.0
"""Seconds after which the copy of a mount pod that does not do well is written again, lest someone has changed or removed it."""


class SecretCopies:
    """What is remembered saves requests, no more: a new process writes each copy once."""

    def __init__(self, client: KubeClient, *, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._written: dict[str, tuple[tuple[str, str], float]] = {}
        """workload → digest of the originals and owner of the copy last written, and when."""
        self._absent: set[str] = set()
        """Workloads without a mount pod whose copy is known to be gone."""

    def serves(self, workload: Workload, mount_pod: Pod, provider_class: StorageProviderClass, own: OwnSecrets) -> bool:
        """Whether `mount_pod` does well with a copy of just what the leader saw last, so that nobody else need look. The leader
        looks at no Secrets of claims."""
        if own.found:
            return False
        digest = mount_pod.metadata.annotations.get(CREDENTIALS_DIGEST, "")
        written, _ = self._written.get(workload.uuid, (None, 0.0))
        known = written == (digest, mount_pod.metadata.uid)
        return known and digest == provider_class.credentials_digest and _does_well(mount_pod)

    async def write(
        self,
        workload: Workload,
        provider_class: StorageProviderClass,
        *,
        original: Secret | None,
        own: OwnSecrets,
        owner: Pod | None,
    ) -> str:
        """Writes the copy, unless this very one was written not long ago. Returns the digest of what it is made of."""
        content = (credentials_digest(original, own.found), owner.metadata.uid if owner else "")
        now = asyncio.get_running_loop().time()
        written, at = self._written.get(workload.uuid, (None, 0.0))
        if written != content or now - at >= REWRITE:
            self._absent.discard(workload.uuid)
            provider = providers.provider(provider_class.spec.provider)
            manifest = secret_copy(
                workload, original=original, own=own.found, provider=provider, namespace=self._namespace, owner=owner
            )
            await self._client.apply(SECRETS, workload.mount_pod, manifest, field_manager="dynvol-node", namespace=self._namespace)
            self._written[workload.uuid] = content, now
        return content[0]

    def is_absent(self, uuid: str) -> bool:
        return uuid in self._absent

    async def remove(self, workload: Workload) -> None:
        """For a workload that has no mount pod, with which it would go."""
        with contextlib.suppress(NotFound):
            await self._client.delete(SECRETS, workload.mount_pod, namespace=self._namespace)
        self._written.pop(workload.uuid, None)
        self._absent.add(workload.uuid)

    def forget(self, uuid: str) -> None:
        self._written.pop(uuid, None)
        self._absent.discard(uuid)


def _does_well(mount_pod: Pod) -> bool:
    """It has nothing to say of its mounts, such as that they are not with the keys that it finds in its copy."""
    return container_runs(mount_pod) and all((r.phase, r.reason) == (Phase.MOUNTED, "") for r in reported(mount_pod))
