"""`Targets` on the kernel: mount work in the executor, verdicts from the mount table.

Publishing runs under its root's key, because two volumes of one root (policy `shared`) would otherwise both make it a mount;
whoever releases a root does so in that lane too. Taking a view away concerns the target alone, and waits for no root.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from dynvol.mount import mountinfo, paths, targets, usage
from dynvol.mount.errors import MountInTheWay, WrongMount
from dynvol.mount.executor import MountExecutor
from dynvol.mount.usage import Usage

from .node import Standing
from .requests import Publication, Target


class KernelTargets:
    """Blocks no one: what might wait for a mount is not done, and the rest runs in the executor's threads."""

    def __init__(self, executor: MountExecutor) -> None:
        self._executor = executor

    async def publish(self, publication: Publication) -> None:
        await self._executor.run(
            targets.lane(publication.root),
            targets.publish,
            str(publication.target.path),
            workload_dir=str(publication.directory),
            root=str(publication.root),
        )

    async def unpublish(self, target: Target) -> None:
        await self._executor.run(f"target {target.path}", targets.unpublish, str(target.path))

    async def inspect(self, target: Target) -> Standing:
        return await self._executor.run(f"inspect {target.path}", inspect, target)


def inspect(target: Target) -> Standing:
    """What the mount table says of a target, and the figures of the bare directory behind it. Touches nothing that may block.

    1. No mount: the directory tells whether there ever was one, for kubelet makes it no earlier and keeps it no longer than we.
    2. A mount: is it the view that `publish` made for this pod, connected and alone? 3. Figures, if asking is safe.
    """
    place = paths.canonical(str(target.path))
    table = mountinfo.read()
    if table.at(place) is None:
        lost = f"nothing is mounted at {place}: delete the pod, so that it is made anew"
        return Standing(exists=os.path.lexists(place), problem=lost)
    return Standing(exists=True, problem=_problem(table, place, pod_uid=target.pod_uid), usage=_usage(place))


def _problem(table: mountinfo.MountTable, place: str, *, pod_uid: str) -> str:
    source = targets.workload_of(table, place)
    if source is None:
        return f"what is mounted at {place} receives no mounts: delete the pod, so that it is made anew"
    directory = PurePosixPath(source)
    if directory.name != pod_uid:
        return f"{place} shows {source}, which belongs to another pod"
    try:
        targets.check_published(table, targets.Placement(target=place, workload_dir=source, root=str(directory.parent)))
    except WrongMount as wrong:
        return str(wrong)
    return ""


def _usage(place: str) -> Usage | None:
    try:
        return usage.usage_of(place)
    except (WrongMount, MountInTheWay):
        return None
