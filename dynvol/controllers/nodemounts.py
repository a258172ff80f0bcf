"""The controllers' door to the kernel: the mount table of this node as workloads, and the two things done to it.

Everything is answered from the present table, in memory. What changes mounts goes through the executor, keyed by root, so that
nothing is taken down twice at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from dynvol.api.mounts import SHARED_SOURCE, SOURCE_PREFIX
from dynvol.mount import caches, fuse, paths, targets
from dynvol.mount.caches import Leftover
from dynvol.mount.executor import MountExecutor
from dynvol.mount.mountinfo import MountTable
from dynvol.mount.paths import Removal
from dynvol.mount.watch import MountWatcher
from dynvol.observe import logs

from .view import claim_uid_of

log = logs.get(__name__)

Place = tuple[PurePosixPath, str]
Handler = Callable[[frozenset[Place]], None]


class KernelMounts:
    """`view.NodeMounts`, for real. `run` tells of changes until cancelled; answers are right without it."""

    def __init__(self, state_dir: str, *, watcher: MountWatcher, executor: MountExecutor) -> None:
        self._base: Final = PurePosixPath(paths.canonical(state_dir), "xvols")
        self._caches: Final = PurePosixPath(paths.canonical(state_dir), "cache")
        self._watcher = watcher
        self._executor = executor
        self._handlers: list[Handler] = []
        self._seen: frozenset[Place] = frozenset()
        self._claims: _Claims | None = None
        """All answers about claims, from the last table that was asked."""

    async def run(self) -> None:
        table: MountTable | None = None
        while True:
            table = self._watcher.table if table is None else await self._watcher.newer_than(table)
            present = self._places(table)
            changed, self._seen = present ^ self._seen, present
            if changed:
                for handler in self._handlers:
                    handler(changed)

    def on_change(self, handler: Handler) -> None:
        self._handlers.append(handler)

    def _places(self, table: MountTable) -> frozenset[Place]:
        return frozenset((PurePosixPath(m.path), m.name) for m in table.below(str(self._base)))

    # --- Questions

    def source_at(self, path: PurePosixPath) -> str | None:
        mount = self._watcher.table.at(str(path))
        return mount.name if mount is not None and mount.name.startswith(SOURCE_PREFIX) else None

    def below(self, root: PurePosixPath) -> dict[PurePosixPath, str]:
        mounts = self._watcher.table.below(str(root))
        return {PurePosixPath(m.path): m.name for m in mounts if m.name.startswith(SOURCE_PREFIX)}

    def is_root(self, path: PurePosixPath) -> bool:
        mount = self._watcher.table.at(str(path))
        return mount is not None and mount.peer_group is not None and not mount.is_fuse

    def uuid_of(self, path: PurePosixPath) -> str | None:
        parts = path.relative_to(self._base).parts if path.is_relative_to(self._base) else ()
        return parts[1] if len(parts) >= 2 else None

    def pods_of_claim(self, claim_uid: str) -> frozenset[str]:
        return frozenset(self._about_claims().pods.get(claim_uid, ()))

    def nameless(self, uuid: str) -> frozenset[str]:
        return frozenset(self._about_claims().nameless.get(uuid, ()))

    def _about_claims(self) -> _Claims:
        if self._claims is None or self._claims.table is not self._watcher.table:
            self._claims = _Claims.of(self._watcher.table, base=f"{self._base}/")
        return self._claims

    async def roots(self) -> dict[str, PurePosixPath]:
        return await asyncio.to_thread(_roots_on_disk, self._base)

    async def caches(self) -> dict[str, PurePosixPath]:
        return await asyncio.to_thread(_roots_on_disk, self._caches)

    async def leftovers(self, cache: PurePosixPath) -> tuple[Leftover, ...]:
        return tuple(await asyncio.to_thread(caches.leftovers, str(cache)))

    # --- Deeds

    async def make_root(self, root: PurePosixPath) -> None:
        await self._executor.run(targets.lane(root), targets.make_root, str(root))

    async def release_cache(self, cache: PurePosixPath) -> list[str]:
        return await self._executor.run(f"cache {cache}", caches.release, str(cache))

    async def clear_dead(self, root: PurePosixPath) -> None:
        clearing = await self._executor.run(targets.lane(root), fuse.clear_dead, str(root))
        for mount in clearing.cleared:
            log.info("cleared what a dead mount pod left", path=mount.path, source=mount.source, aborted=mount.aborted)

    async def release(self, root: PurePosixPath, *, keep: frozenset[str]) -> list[str]:
        removal = await self._executor.run(targets.lane(root), _release, str(root), keep)
        return [f"{obstacle.path} {obstacle.reason}" for obstacle in removal.left]


@dataclass(frozen=True, slots=True)
class _Claims:
    """What a mount table says of claims."""

    table: MountTable
    pods: dict[str, set[str]]
    """Claim's uid → the pods where it is."""
    nameless: dict[str, set[str]]
    """Workload's uuid → the paths below its root of what may be several claims'."""

    @classmethod
    def of(cls, table: MountTable, *, base: str) -> _Claims:
        found = cls(table, {}, {})
        for mount in table.below(base.rstrip("/")):
            _class, uuid, pod_uid, mountpoint = [*mount.path.removeprefix(base).split("/", 3), "", "", ""][:4]
            if mountpoint and mount.name.startswith(SHARED_SOURCE):
                found.nameless.setdefault(uuid, set()).add(f"{pod_uid}/{mountpoint}")
            elif mountpoint and (claim_uid := claim_uid_of(mount.name)):
                found.pods.setdefault(claim_uid, set()).add(pod_uid)
        return found


def _roots_on_disk(base: PurePosixPath) -> dict[str, PurePosixPath]:
    """Two levels of our own directories: class, uuid. Neither is ever a mount of someone else's file system."""
    return {uuid: base / name / uuid for name in _names(base) for uuid in _names(base / name)}


def _names(directory: PurePosixPath) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _release(root: str, keep: frozenset[str]) -> Removal:
    if not keep:
        return targets.release_root(root)
    gone = [name for name in _names(PurePosixPath(root)) if name not in keep]
    removals = [targets.release_workload(f"{root}/{name}", root=root) for name in gone]
    return Removal(tuple(p for r in removals for p in r.removed), tuple(o for r in removals for o in r.left))
