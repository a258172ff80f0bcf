"""The door to the kernel for volumes that holder pods hold: what shows them where, and what is done about it.

The executor is not the one that serves kubelet: a volume whose server is silent may keep threads, and must keep none of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final, Protocol

from dynvol.api.mounts import SOURCE_PREFIX
from dynvol.mount import held, paths
from dynvol.mount.executor import MountExecutor
from dynvol.mount.held import Showing, Volume
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.paths import Removal
from dynvol.mount.watch import MountWatcher


class NodeVolumes(Protocol):
    """Reading asks the mount table, never a path."""

    def of_holder(self, pod_uid: str) -> Volume | None:
        """What kubelet has mounted for a holder pod; None while it has not."""
        ...

    def places(self, root: PurePosixPath) -> dict[PurePosixPath, Mount]:
        """What is mounted in the workload directories of a root, but for what a mounter mounts: path → the topmost mount."""
        ...

    def of_pod(self, pod_uid: str) -> dict[PurePosixPath, Mount]:
        """What is mounted in the workload directories of one pod."""
        ...

    async def show(self, holder_uid: str, volume: Volume, showing: Showing) -> None:
        """Binds a volume below a workload directory (`held.show`)."""
        ...

    async def hide(self, workload_dir: str, mountpoint: str) -> Removal:
        """Takes away what is mounted there (`held.hide`)."""
        ...

    async def settle(self, holder_uid: str, volume: Volume, *, others: Sequence[Volume]) -> bool:
        """Whether a holder may go, and all that was written is on the disk (`held.settle`). Runs after every `show` from that
        holder that was asked for before."""
        ...

    async def dismiss(self, holder_uid: str) -> None:
        """Tells a holder that is being deleted to end now (`held.dismiss`)."""
        ...


class KernelVolumes:
    """`NodeVolumes`, for real."""

    def __init__(self, state_dir: str, *, kubelet_dir: str, watcher: MountWatcher, executor: MountExecutor) -> None:
        self._base: Final = str(PurePosixPath(paths.canonical(state_dir), "xvols"))
        self._pods: Final = paths.canonical(f"{kubelet_dir}/pods")
        self._watcher = watcher
        self._executor = executor
        self._known: tuple[MountTable, dict[str, Volume]] | None = None
        """The last table that was asked about volumes, and all the answers to that."""

    def of_holder(self, pod_uid: str) -> Volume | None:
        table = self._watcher.table
        if self._known is None or self._known[0] is not table:
            self._known = table, held.volumes(table, self._pods)
        return self._known[1].get(pod_uid)

    def places(self, root: PurePosixPath) -> dict[PurePosixPath, Mount]:
        found = held.places(self._watcher.table, str(root))
        return {PurePosixPath(path): mount for path, mount in found.items() if not _is_a_mounters(mount)}

    def of_pod(self, pod_uid: str) -> dict[PurePosixPath, Mount]:
        found = held.places(self._watcher.table, self._base, deeper=2)
        of_pod = {PurePosixPath(p): m for p, m in found.items() if p.removeprefix(f"{self._base}/").split("/")[2] == pod_uid}
        return {path: mount for path, mount in of_pod.items() if not _is_a_mounters(mount)}

    async def show(self, holder_uid: str, volume: Volume, showing: Showing) -> None:
        await self._executor.run(f"holder {holder_uid}", held.show, volume, showing)

    async def hide(self, workload_dir: str, mountpoint: str) -> Removal:
        return await self._executor.run(f"{workload_dir}/{mountpoint}", held.hide, workload_dir, mountpoint)

    async def settle(self, holder_uid: str, volume: Volume, *, others: Sequence[Volume]) -> bool:
        key = f"holder {holder_uid}"
        return await self._executor.run(key, held.settle, volume, others=tuple(others), base=self._base, pods=self._pods)

    async def dismiss(self, holder_uid: str) -> None:
        await self._executor.run(f"holder {holder_uid}", held.dismiss, holder_uid, pods=self._pods)


def _is_a_mounters(mount: Mount) -> bool:
    return (mount.is_fuse or mount.is_nfs) and mount.name.startswith(SOURCE_PREFIX)
