"""A pod's target path: how it is published, unpublished, and what is taken down when its mount pod goes.

    <state>/xvols/<class>/<uuid>             root: bound onto itself, a peer group of its own
    <state>/xvols/<class>/<uuid>/<pod uid>   workload directory: bound onto itself, a peer group of its own
    <target path of the kubelet>             view: the workload directory, receiving from it, read-only itself

What a mount pod mounts below the workload directory arrives below the view, and so in the pod's containers, with its own
flags: writable below a read-only root. Nothing goes back. The peer groups are the blast radius: no mount below one root is
ever seen through another, or through the host's own mounts.

Plans are pure functions of the mount table; `apply` is thin. Each step moves towards the goal from wherever the last call
was cut off, so publish and unpublish may be repeated after any crash. All of it blocks, and runs in `executor`.
Not here: what is mounted below a workload directory, and who decides that a daemon is dead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Final

from dynvol.mount import mountinfo, paths, propagation, syscalls
from dynvol.mount.errors import (
    FileInTheWay,
    InTheWay,
    MountBusy,
    MountError,
    MountInTheWay,
    NotMounted,
    StackedMounts,
    StaleMount,
    UnsafePath,
    WrongMount,
)
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.paths import Obstacle, Removal

_ROOT_MODE: Final = 0o700
"""Keeps users of the host away from all buckets; containers do not pass here."""
_WORKLOAD_MODE: Final = 0o755
"""The root that a container sees: any user in it may go through."""
_TARGET_MODE: Final = 0o750
"""As the CSI drivers of the Kubernetes project make it; hidden while published."""
_ROUNDS: Final = 64
"""Of reading the table and unmounting what shows. Each round takes at least one layer off."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The three places of one published volume, as the mount table writes them."""

    target: str
    workload_dir: str
    root: str

    @classmethod
    def of(cls, target: str, *, workload_dir: str, root: str) -> Placement:
        """Resolves symbolic links above the three (kubelet's directory often is one). Raises UnsafePath."""
        directory, name = posixpath.split(workload_dir)
        if directory != root or len(paths.components(name)) != 1:
            raise UnsafePath(f"the workload directory {workload_dir!r} is not directly below its root {root!r}")
        canonical_root = paths.canonical(root)
        return cls(target=paths.canonical(target), workload_dir=posixpath.join(canonical_root, name), root=canonical_root)


class Manner(Enum):
    """How insistently to unmount."""

    PLAIN = "plain"
    LAZY_IF_BUSY = "lazy if busy"
    LAZY = "lazy"


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    path: str
    mode: int
    parents: bool = False


@dataclass(frozen=True, slots=True)
class AttachOwn:
    """Bind a directory onto itself, in a peer group of its own."""

    path: str


@dataclass(frozen=True, slots=True)
class Share:
    path: str


@dataclass(frozen=True, slots=True)
class AttachView:
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Unmount:
    path: str
    manner: Manner


Step = MakeDirectory | AttachOwn | Share | AttachView | Unmount


def lane(root: str | PurePath) -> str:
    """The executor's key for all work on a mount pod's root and on the workload directories in it.

    Two volumes of one root would otherwise both make it a mount, or one be released while another is published.
    """
    return f"root {root}"


def publish(target: str, *, workload_dir: str, root: str) -> None:
    """Make `target` a read-only view of `workload_dir` that receives what is mounted below it. Idempotent.

    1. `root` becomes a mount with a peer group of its own. 2. `workload_dir` does. 3. The view is attached at `target`, with
    whatever is mounted below `workload_dir` already. 4. The table is read: it must show just that.

    Nothing is mounted at or below a directory that was just made. So the table is read beforehand only where one was there: when
    a publication is repeated, or a root is shared.

    `target` is made, its parent is kubelet's. Raises WrongMount if `target`, `root` or `workload_dir` holds another mount
    (nothing is changed then), StaleMount if the view was cut off from its source, InTheWay, MountError.
    """
    placement = Placement.of(target, workload_dir=workload_dir, root=root)
    if not _publish_anew(placement):
        for step in plan_publish(mountinfo.shared(), placement):
            apply(step)
    check_published(mountinfo.shared(), placement)


def make_root(root: str) -> None:
    """The first step of `publish` alone, for a mount pod that serves no pod any more. Idempotent."""
    place = paths.canonical(root)
    for step in _plan_own(mountinfo.shared(), place, MakeDirectory(place, _ROOT_MODE, parents=True)):
        apply(step)


def unpublish(target: str) -> None:
    """Take the view at `target` away, with all that propagated below it, and the directory. Idempotent.

    1. What is mounted below is unmounted, deepest first, then the view: from this path only; the view sends nothing back,
    so the mounts in the workload directory stay. 2. The directory is removed with rmdir.

    A view with nothing below goes without a look at the table: the kernel refuses to unmount it otherwise, and to remove the
    directory as long as anything is mounted at it.

    What is busy is unmounted lazily. That is right for a view: nothing is flushed or ended by it, the file system lives on
    in the workload directory, and whoever still has a file open keeps it until it is closed. Kubelet calls this after the
    containers have ended, and would be held up for ever by a program that outlived them.
    """
    place = paths.canonical(target)
    if _unpublish_bare(place):
        return
    for _ in range(_ROUNDS):
        steps = plan_unpublish(mountinfo.shared(), place)
        if not steps:
            break
        for step in steps:
            apply(step)
    else:
        raise MountInTheWay(place, "is mounted again as often as it is unmounted")
    _remove_target(place)


def release_workload(workload_dir: str, *, root: str) -> Removal:
    """Take one workload directory of a root away, as `release_root` does for all of them. Idempotent."""
    return _release(paths.canonical(root), only=posixpath.join(paths.canonical(root), posixpath.basename(workload_dir)))


def release_root(root: str) -> Removal:
    """Take a mount pod's root away, when nothing but our own binds is left of it; with the last of a class, the class's directory.
    Idempotent.

    Changes nothing while a foreign file system is mounted below or a view is still published: those are in `left`, with
    the reason. Unmounts plainly: what is busy stays too. Directories go by rmdir; a file that someone wrote stays.
    """
    return _release(paths.canonical(root), only=None)


def is_published(table: MountTable, placement: Placement) -> bool:
    """Whether the target shows the right directory, connected to the right peer group, read-only, once."""
    try:
        check_published(table, placement)
    except WrongMount:
        return False
    return True


def check_published(table: MountTable, placement: Placement) -> None:
    """`is_published` with the reason: raises StackedMounts, StaleMount, WrongMount."""
    if table.at(placement.target) is None:
        raise WrongMount(placement.target, "nothing is mounted there")
    _check_view(table, placement)


def workload_of(table: MountTable, target: str) -> str | None:
    """The workload directory that the view at `target` receives from, None if there is no connected view.

    For calls that know nothing but the target path. `target` as the table writes it (`paths.canonical`).
    """
    view = table.at(target)
    if view is None or view.master is None:
        return None
    sources = (m for m in table.peers(view.master) if (m.device, m.root) == (view.device, view.root))
    return next((m.path for m in sources if table.at(m.path) == m), None)


def plan_publish(table: MountTable, placement: Placement) -> list[Step]:
    """The steps that are missing. Raises WrongMount rather than plan around what should not be there."""
    make_root, make_workload, make_target = _directories(placement)
    steps = [*_plan_own(table, placement.root, make_root), *_plan_own(table, placement.workload_dir, make_workload)]
    if table.at(placement.target) is not None:
        _check_view(table, placement)
        return steps
    if below := table.below(placement.target):
        raise MountInTheWay(below[0].path, f"{below[0].label} is mounted below a target path that is not published")
    return [*steps, make_target, AttachView(placement.workload_dir, placement.target)]


def plan_unpublish(table: MountTable, target: str) -> list[Step]:
    """One round of unmounting: all that can be reached at and below `target` without passing through a mount that may block.

    A mount that may block is detached with what is inside it, because each path inside leads through it. Layers that are
    hidden show in the next round.
    """
    return list(_dismantle(table, [*table.below(target), *reversed(table.stack(target))]))


def plan_release(table: MountTable, root: str, *, only: str | None = None) -> tuple[list[Step], tuple[Obstacle, ...]]:
    """Either steps or what forbids them."""
    within = root if only is None else only
    mounts = [*table.below(within), *reversed(table.stack(within))]
    obstacles = tuple(o for mount in mounts for o in _obstacles(table, mount, root=root))
    return ([] if obstacles else [Unmount(m.path, Manner.PLAIN) for m in mounts]), obstacles


def apply(step: Step) -> None:
    """Carry one step out. A step whose result is there already is no error."""
    match step:
        case MakeDirectory():
            _make_directory(step)
        case AttachOwn(path):
            propagation.attach_bind(path, path, propagation=propagation.OWN_PEER_GROUP)
        case Share(path):
            propagation.make_shared(path)
        case AttachView(source, target):
            propagation.attach_bind(source, target, propagation=propagation.RECEIVING, read_only=True, recursive=True)
        case Unmount(path, manner):
            _unmount(path, manner)


def _directories(placement: Placement) -> tuple[MakeDirectory, MakeDirectory, MakeDirectory]:
    """Root, workload directory, target."""
    return (
        MakeDirectory(placement.root, _ROOT_MODE, parents=True),
        MakeDirectory(placement.workload_dir, _WORKLOAD_MODE),
        MakeDirectory(placement.target, _TARGET_MODE),
    )


def _publish_anew(placement: Placement) -> bool:
    """What `plan_publish` plans where nothing is yet. False, having changed nothing, where one of the directories was there.

    The target's comes first: mkdir(2) tells of a mount there without asking it.
    """
    make_root, make_workload, make_target = _directories(placement)
    if not _make_directory(make_target):
        return False
    if not _make_directory(make_root):
        _remove_target(placement.target)
        return False
    apply(AttachOwn(placement.root))
    _make_directory(make_workload)
    apply(AttachOwn(placement.workload_dir))
    apply(AttachView(placement.workload_dir, placement.target))
    return True


def _unpublish_bare(place: str) -> bool:
    """False, having done no harm, where there is more than a view that no one uses, or something else."""
    try:
        _unmount(place, Manner.PLAIN)
        _remove_target(place)
    except (MountError, InTheWay):
        return False
    return True


def _plan_own(table: MountTable, path: str, make: MakeDirectory) -> list[Step]:
    mount = table.at(path)
    if mount is None:
        if below := table.below(path):
            raise MountInTheWay(below[0].path, f"{below[0].label} would be hidden by binding {path} onto itself")
        return [make, AttachOwn(path)]
    covered = table.parent_of(mount)
    if len(table.stack(path)) > 1:
        raise StackedMounts(path, f"{len(table.stack(path))} mounts are stacked here, on top {mount.label}")
    if not is_own_bind(table, mount):
        raise WrongMount(path, f"holds {mount.label} instead of the directory itself")
    if mount.peer_group is None:
        return [Share(path)]
    if covered is not None and mount.peer_group == covered.peer_group:
        raise WrongMount(path, f"is a peer of the mount at {covered.path}: what is mounted below would show there too")
    return []


def is_own_bind(table: MountTable, mount: Mount) -> bool:
    """Whether `mount` is a directory bound onto itself."""
    return table.covered_identity(mount) == (mount.device, mount.root)


def _check_view(table: MountTable, placement: Placement) -> None:
    stack = table.stack(placement.target)
    view, source = stack[-1], table.at(placement.workload_dir)
    if len(stack) > 1:
        raise StackedMounts(placement.target, f"{len(stack)} mounts are stacked here, on top {view.label}")
    if (view.device, view.root) != table.identity(placement.workload_dir):
        raise WrongMount(placement.target, f"holds {view.label}, which is not {placement.workload_dir}; unpublish it first")
    if source is None or source.peer_group is None or view.master != source.peer_group:
        raise StaleMount(
            placement.target, f"shows {placement.workload_dir} but no longer receives what is mounted there; restart the pod"
        )
    if not view.read_only:
        raise WrongMount(placement.target, "is published writable: files written there would hide below later mounts")


def _dismantle(table: MountTable, mounts: Iterable[Mount]) -> Iterable[Step]:
    candidates = [m for m in mounts if m in table.stack(m.path)]
    ids = {m.id for m in candidates}
    blocked = {m.id for m in candidates if _lies_inside_blocking(table, m, ids)}
    for mount in candidates:
        if mount.id in blocked:
            continue
        holds_more = mount.may_block and any(b.parent == mount.id for b in table.below(mount.path))
        yield Unmount(mount.path, Manner.LAZY if holds_more else Manner.LAZY_IF_BUSY)


def _lies_inside_blocking(table: MountTable, mount: Mount, within: set[int]) -> bool:
    """Whether the path of `mount` leads through another of these mounts that may block. A mount that is stacked on one does
    not: crossing a mount point asks no file system."""
    parent = table.parent_of(mount)
    while parent is not None and parent.id in within:
        if parent.may_block and parent.path != mount.path:
            return True
        parent = table.parent_of(parent)
    return False


def _obstacles(table: MountTable, mount: Mount, *, root: str) -> Iterable[Obstacle]:
    if mount.path not in (root, posixpath.join(root, posixpath.basename(mount.path))) or not is_own_bind(table, mount):
        yield Obstacle(mount.path, f"{mount.label} is mounted here")
    elif mount.peer_group is not None:
        for view in table.slaves(mount.peer_group):
            if not view.path.startswith(root + "/"):
                yield Obstacle(view.path, f"still receives what is mounted at {mount.path}")


def _release(root: str, *, only: str | None) -> Removal:
    propagation.clear_abandoned_stages()
    steps, obstacles = plan_release(mountinfo.shared(), root, only=only)
    if obstacles:
        return Removal((), obstacles)
    for step in steps:
        try:
            apply(step)
        except MountBusy as busy:
            return Removal((), (Obstacle(step.path if isinstance(step, Unmount) else root, str(busy)),))
    removal = paths.remove_empty_tree(root if only is None else only)
    if only is None and not removal.left:
        with contextlib.suppress(OSError):
            os.rmdir(posixpath.dirname(root))  # The class's, if no other root is in it.
    return removal


def _make_directory(step: MakeDirectory) -> bool:
    """False if it was there."""
    if step.parents:
        os.makedirs(posixpath.dirname(step.path), mode=_ROOT_MODE, exist_ok=True)
    try:
        os.mkdir(step.path, step.mode)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if not step.parents:
            raise
        # The directory of its class has just gone, with the last other root in it.
        return _make_directory(step)
    # mkdir is subject to the umask; a process that dies before this leaves the directory stricter, and its own again.
    os.chmod(step.path, step.mode)
    return True


def _unmount(path: str, manner: Manner) -> None:
    try:
        syscalls.unmount(path, lazily=manner is Manner.LAZY)
    except NotMounted:
        return
    except MountBusy:
        if manner is not Manner.LAZY_IF_BUSY:
            raise
        _unmount(path, Manner.LAZY)


def _remove_target(target: str) -> None:
    try:
        os.rmdir(target)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise FileInTheWay(target) from error
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
            raise
        raise InTheWay(target, f"the directory cannot be removed: {os.strerror(error.errno)}; look what is in it") from error
