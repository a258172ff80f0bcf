"""Volumes that kubelet mounts for one pod, shown below the workload directory of another.

    <kubelet>/pods/<holder uid>/volume-subpaths/<volume>/<container>/0   kubelet's own bind of the volume
    <state>/xvols/<class>/<uuid>/<pod uid>/<mountpoint>                  ours, of that or of a directory in it
    <kubelet>/pods/<holder uid>/containers/<container>/<id>              the last words of the holder's container, see `dismiss`

Each volume plugin mounts in a place of its own, and some (hostPath) do not mount at all. But for a container that asks for a
`subPath`, kubelet binds what it asks for to the first of these places, whatever the plugin, so that there is one place to look
(kubernetes pkg/volume/util/subpath). `subPath: .` is all of the volume. No process of the other pod has to be found and trusted
for it.

A bind shows the file system itself: it stays when kubelet takes its own mounts away. So whoever lets the holder go takes the binds
away before, and waits until what was written is on the disk.
All of it blocks, on the volume's server too, and runs in an executor. Not here: who shows what where.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dynvol.mount import mountinfo, paths, propagation, syscalls
from dynvol.mount.errors import MountBusy, MountInTheWay, NotHeld, NotMounted, WrongMount
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.paths import Removal
from dynvol.mount.propagation import Propagation

CONTAINER: Final = "holder"
"""The holder's container, whose first volume mount is the volume."""
LAST_WORDS: Final = "/dev/termination-log"
"""What that file is called in the container; Kubernetes' default."""
_DISMISSAL: Final = b"nobody needs the volume any more\n"
_ROUNDS: Final = 64


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as kubelet has it mounted. Two that are equal but for `path` show the same."""

    path: str
    device: tuple[int, int]
    root: str
    read_only: bool

    def shows(self, mount: Mount, *, sub_path: str, read_only: bool) -> bool:
        """Whether `mount` is a bind of `sub_path` of this volume, writable or not as it should be."""
        root = posixpath.join(self.root, sub_path) if sub_path else self.root
        return (mount.device, mount.root, mount.read_only) == (self.device, root, read_only or self.read_only)

    def is_source_of(self, mount: Mount) -> bool:
        """Whether `mount` is a bind of anything in this volume."""
        return mount.device == self.device and f"{mount.root}/".startswith(f"{self.root.rstrip('/')}/")


@dataclass(frozen=True, slots=True)
class Showing:
    """What is to be shown where. `workload_dir` is published: a mount with a peer group of its own."""

    workload_dir: str
    mountpoint: str
    """Relative to it."""
    sub_path: str
    """Relative to the volume; empty: all of it."""
    read_only: bool

    @property
    def target(self) -> str:
        return f"{self.workload_dir}/{self.mountpoint}"


def volumes(table: MountTable, pods: str) -> dict[str, Volume]:
    """The volumes that kubelet has mounted for holders: by pod uid. `pods` is kubelet's directory of all pods."""
    found: dict[str, Volume] = {}
    for mount in table.below(pods):
        match mount.path.removeprefix(f"{pods}/").split("/"):
            case [uid, "volume-subpaths", _, container, "0"] if container == CONTAINER and table.at(mount.path) == mount:
                found[uid] = Volume(mount.path, mount.device, mount.root, mount.read_only)
    return found


def show(volume: Volume, showing: Showing) -> None:
    """Bind a volume, or a directory in it, below a workload directory. Nothing may be mounted at the target.

    1. The directory is opened, from the volume's root down, following no link and entering no other mount. 2. The target's
    directory is made. 3. A bind of just what was opened is attached, without the power of set-user-ID bits and devices, in a peer
    group of its own; the workload directory passes it on. What was made is removed where that fails.

    Raises FileNotFoundError and InTheWay for what is wrong with the sub-path or the mountpoint, NotHeld, MountError.
    """
    table = mountinfo.read()
    if (there := table.at(showing.target)) is not None:
        raise WrongMount(showing.target, f"holds {there.label} already")
    own = table.at(showing.workload_dir)
    if own is None or own.peer_group is None:
        raise NotHeld(showing.workload_dir, "is not published")
    with _opened(table, volume, showing.sub_path) as directory:
        paths.make_directory_below(showing.workload_dir, showing.mountpoint, table=table)
        try:
            propagation.attach_bind(
                directory, showing.target, propagation=(Propagation.PRIVATE,), read_only=showing.read_only, powerless=True
            )
        except OSError:
            paths.remove_empty_directories_below(showing.workload_dir, showing.mountpoint)
            raise


@contextmanager
def _opened(table: MountTable, volume: Volume, sub_path: str) -> Iterator[int]:
    """A descriptor in the very mount that the table shows at the volume's place, and in no other that came there since."""
    mount = table.at(volume.path)
    if mount is None or (mount.device, mount.root) != (volume.device, volume.root):
        raise NotHeld(volume.path, "is not mounted any more")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = paths.open_below(volume.path, sub_path, table=table) if sub_path else os.open(volume.path, flags)
    try:
        if paths.mount_id(directory) != mount.id:
            raise NotHeld(volume.path, "is another mount by now")
        yield directory
    finally:
        os.close(directory)


def hide(workload_dir: str, mountpoint: str) -> Removal:
    """Take away all that is mounted at one place below a workload directory, here and in the containers, and its directories.

    What has open files is unmounted lazily: nothing is ended by it, since the file system lives on in kubelet's own mount.
    """
    target = f"{workload_dir}/{mountpoint}"
    for _ in range(_ROUNDS):
        if mountinfo.read().at(target) is None:
            return paths.remove_empty_directories_below(workload_dir, mountpoint)
        try:
            syscalls.unmount(target)
        except NotMounted:
            continue
        except MountBusy:
            syscalls.unmount(target, lazily=True)
    raise MountInTheWay(target, "is mounted again as often as it is unmounted")


def settle(volume: Volume, *, others: Sequence[Volume], base: str, pods: str) -> bool:
    """Whether a holder may go: nothing below `base` shows its volume, unless one of the `others` stands for that as well.

    Then what is in memory of the file system has been written to its disk, also for programs that still have files of it open. It
    is unmounted next, and perhaps taken off the node. One that is mounted elsewhere than for pods stays there, and need not be.
    """
    table = mountinfo.read()
    shown = (mount for mount in places(table, base, deeper=2).values() if volume.is_source_of(mount))
    if not all(any(other.is_source_of(mount) for other in others) for mount in shown):
        return False
    if not any(mount.device == volume.device and not mount.path.startswith(f"{pods}/") for mount in table):
        _sync(volume)
    return True


def dismiss(holder_uid: str, *, pods: str) -> None:
    """Tell a holder that is being deleted to end now, and not with its grace period: kubelet takes no shorter one for a pod that it
    stops already, and whoever drains the node waits for it.

    It is told through the file in which kubelet has each container leave its last words. That is there for every container, and
    writable though its root is not; the container can put no link in its place, and need not be asked for anything: no process of
    it has to be found or signalled, which would take the node's process ids, and no volume shared. A container that kubelet starts
    again has a new file; all are written to. What we write is what `kubectl describe` shows as the reason of the end.

    Raises OSError if that cannot be written.
    """
    folder = f"{pods}/{holder_uid}/containers/{CONTAINER}"
    try:
        files = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in files:
        _say(f"{folder}/{name}")


def _say(path: str) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.write(file, _DISMISSAL)
    finally:
        os.close(file)


def _sync(volume: Volume) -> None:
    try:
        directory = os.open(volume.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        syscalls.sync_filesystem(directory)
    finally:
        os.close(directory)


def places(table: MountTable, root: str, *, deeper: int = 0) -> dict[str, Mount]:
    """What is mounted below the workload directories of a root, or of all that are so much `deeper`: path → the topmost."""
    inside = (m for m in table.below(root) if m.path.removeprefix(f"{root}/").count("/") > deeper)
    return {m.path: m for m in inside if table.at(m.path) == m}
