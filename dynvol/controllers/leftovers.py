"""What mount pods that are gone have left on this node's disk: written, closed, and not in the storage yet.

It belongs to a workload that may be gone too, with its claims. A mount pod is made for it all the same, which uploads it; its
directory on the disk says all that is needed for that. Read when asked for, never remembered. Not here: what is decided from it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath

from dynvol.api import names
from dynvol.api.identity import Workload
from dynvol.api.mounts import WantedMount
from dynvol.mount.caches import Leftover

from .view import NodeView


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Of one workload. `directory` is named by its class and, in that, by its uuid."""

    directory: PurePosixPath
    waiting: tuple[Leftover, ...]

    @property
    def files(self) -> int:
        return sum(left.files for left in self.waiting)

    def of(self, *, claim_uid: str, pod_uid: str, unless: Collection[str] = ()) -> int:
        """How many files are, or may be, of one claim in one pod; `unless` their mount has one of these sources."""
        mine = (left for left in self.waiting if f"{claim_uid}/{pod_uid}" in left.mount.owners)
        return sum(left.files for left in mine if left.mount.source not in unless)

    def workload(self, node: str) -> Workload | None:
        """Whose they are; None if the directory is not of this node."""
        found = (self._candidate(left.mount, policy, node) for left in self.waiting for policy in (names.INDEPENDENT, names.SHARED))
        return next((w for w in found if w.uuid == self.directory.name), None)

    def _candidate(self, mount: WantedMount, policy: str, node: str) -> Workload:
        return Workload.of(
            node=node,
            namespace=mount.claim.partition("/")[0],
            provider_class=self.directory.parent.name,
            policy=policy,
            pod_uid=mount.pod_uid,
        )

    def sentence(self, node: str) -> str:
        """For whoever looks after the node."""
        count = "1 file is" if self.files == 1 else f"{self.files} files are"
        claims = ", ".join(sorted({left.mount.claim for left in self.waiting}))
        return f"{count} not in the storage yet, of {claims}; kept on node {node} in {self.directory}"


async def look(view: NodeView, uuid: str) -> Leftovers | None:
    """What a workload's mount pods have left; None if that is nothing. Of one that is at work, it is what it has yet to upload."""
    directory = (await view.mounts.caches()).get(uuid)
    if directory is None:
        return None
    waiting = await view.mounts.leftovers(directory)
    return Leftovers(directory, waiting) if waiting else None
