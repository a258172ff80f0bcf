"""What is decided from a mount table alone: no kernel, no root."""

from __future__ import annotations

import dataclasses

import pytest

from dynvol.mount import fuse, targets
from dynvol.mount.errors import MountInTheWay, StackedMounts, StaleMount, UnsafePath, WrongMount
from dynvol.mount.mountinfo import Mount, MountTable
from dynvol.mount.targets import AttachOwn, AttachView, MakeDirectory, Manner, Placement, Share, Unmount

ROOT, WORKLOAD, TARGET = "/state/class/uuid", "/state/class/uuid/pod", "/kubelet/mount"
PLACEMENT = Placement(target=TARGET, workload_dir=WORKLOAD, root=ROOT)

HOST = Mount(1, 0, 8, 1, "/", "/", "rw", 1, None, None, False, "ext4", "/dev/disk", "rw")
OWN_ROOT = dataclasses.replace(HOST, id=2, parent=1, root=ROOT, path=ROOT, peer_group=2)
OWN_WORKLOAD = dataclasses.replace(HOST, id=3, parent=2, root=WORKLOAD, path=WORKLOAD, peer_group=3)
VIEW = dataclasses.replace(OWN_WORKLOAD, id=4, parent=1, path=TARGET, peer_group=4, master=3, options="ro")
BUCKET = Mount(5, 3, 0, 50, "/", f"{WORKLOAD}/data", "rw", 5, None, None, False, "fuse.s3fs", "bucket", "rw")
SEEN = dataclasses.replace(BUCKET, id=6, parent=4, path=f"{TARGET}/data", peer_group=6, master=5)


def test_from_nothing_all_is_made_in_order() -> None:
    assert targets.plan_publish(MountTable([HOST]), PLACEMENT) == [
        MakeDirectory(ROOT, 0o700, parents=True),
        AttachOwn(ROOT),
        MakeDirectory(WORKLOAD, 0o755),
        AttachOwn(WORKLOAD),
        MakeDirectory(TARGET, 0o750),
        AttachView(WORKLOAD, TARGET),
    ]


def test_what_is_there_is_not_made_again() -> None:
    assert targets.plan_publish(MountTable([HOST, OWN_ROOT, OWN_WORKLOAD, VIEW, BUCKET, SEEN]), PLACEMENT) == []


def test_a_private_root_is_shared_before_anything_is_bound_from_it() -> None:
    private = dataclasses.replace(OWN_ROOT, peer_group=None)
    assert targets.plan_publish(MountTable([HOST, private]), PLACEMENT)[0] == Share(ROOT)


@pytest.mark.parametrize(
    ("table", "error", "words"),
    [
        ([HOST, dataclasses.replace(OWN_ROOT, peer_group=1)], WrongMount, "peer of the mount at /"),
        ([HOST, dataclasses.replace(OWN_ROOT, root="/elsewhere")], WrongMount, "instead of the directory itself"),
        ([HOST, OWN_ROOT, dataclasses.replace(OWN_ROOT, id=9, parent=2)], StackedMounts, "2 mounts"),
        ([HOST, dataclasses.replace(BUCKET, parent=1)], MountInTheWay, "hidden by binding"),
        ([HOST, dataclasses.replace(BUCKET, parent=1, path=f"{TARGET}/data")], MountInTheWay, "target path that is not published"),
        ([HOST, OWN_ROOT, OWN_WORKLOAD, dataclasses.replace(VIEW, root="/other")], WrongMount, "unpublish it first"),
        ([HOST, OWN_ROOT, OWN_WORKLOAD, dataclasses.replace(VIEW, master=9)], StaleMount, "restart the pod"),
        ([HOST, OWN_ROOT, OWN_WORKLOAD, dataclasses.replace(VIEW, master=None)], StaleMount, "restart the pod"),
        ([HOST, OWN_ROOT, OWN_WORKLOAD, dataclasses.replace(VIEW, options="rw")], WrongMount, "writable"),
        ([HOST, OWN_ROOT, OWN_WORKLOAD, VIEW, dataclasses.replace(VIEW, id=9, parent=4)], StackedMounts, "2 mounts"),
    ],
)
def test_what_should_not_be_there_is_refused_in_words(table: list[Mount], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        targets.plan_publish(MountTable(table), PLACEMENT)


def test_unpublishing_goes_from_the_inside_out() -> None:
    table = MountTable([HOST, OWN_ROOT, OWN_WORKLOAD, VIEW, BUCKET, SEEN])
    assert targets.plan_unpublish(table, TARGET) == [
        Unmount(f"{TARGET}/data", Manner.LAZY_IF_BUSY),
        Unmount(TARGET, Manner.LAZY_IF_BUSY),
    ]
    assert targets.plan_unpublish(MountTable([HOST]), TARGET) == []


def test_no_path_that_leads_through_a_mount_that_may_block_is_unmounted() -> None:
    inside = dataclasses.replace(HOST, id=7, parent=6, path=f"{TARGET}/data/inner")
    table = MountTable([HOST, OWN_ROOT, OWN_WORKLOAD, VIEW, SEEN, inside])
    assert targets.plan_unpublish(table, TARGET) == [Unmount(f"{TARGET}/data", Manner.LAZY), Unmount(TARGET, Manner.LAZY_IF_BUSY)]


def test_a_mount_that_hides_others_goes_first_and_they_wait_for_the_next_round() -> None:
    cover = dataclasses.replace(BUCKET, id=8, parent=4, path=TARGET)
    table = MountTable([HOST, OWN_ROOT, OWN_WORKLOAD, VIEW, SEEN, cover])
    assert Unmount(f"{TARGET}/data", Manner.LAZY_IF_BUSY) not in targets.plan_unpublish(table, TARGET)
    assert targets.plan_unpublish(table, TARGET)[0] == Unmount(TARGET, Manner.LAZY_IF_BUSY)


def test_a_root_with_a_bucket_or_a_view_is_not_released() -> None:
    steps, obstacles = targets.plan_release(MountTable([HOST, OWN_ROOT, OWN_WORKLOAD, VIEW, BUCKET]), ROOT)
    assert steps == [] and {o.path for o in obstacles} == {TARGET, f"{WORKLOAD}/data"}


def test_one_workload_is_released_while_another_is_used() -> None:
    other = dataclasses.replace(OWN_WORKLOAD, id=7, root=f"{ROOT}/other", path=f"{ROOT}/other", peer_group=7)
    table = MountTable([HOST, OWN_ROOT, OWN_WORKLOAD, VIEW, BUCKET, other])
    assert targets.plan_release(table, ROOT, only=f"{ROOT}/other") == ([Unmount(f"{ROOT}/other", Manner.PLAIN)], ())


def test_the_fuse_mounts_of_a_root_are_the_outermost_ones_below_it() -> None:
    inner = dataclasses.replace(BUCKET, id=7, parent=5, path=f"{WORKLOAD}/data/inner")
    table = MountTable([HOST, OWN_ROOT, OWN_WORKLOAD, VIEW, BUCKET, SEEN, inner])
    assert fuse.mounts_below(table, ROOT) == (BUCKET,)


@pytest.mark.parametrize(
    "workload_dir", ["/state/class/other/pod", "/state/class/uuid", "/state/class/uuid/a/b", "/state/class/uuid/.."]
)
def test_a_workload_directory_is_directly_below_its_root(workload_dir: str) -> None:
    with pytest.raises(UnsafePath):
        Placement.of(TARGET, workload_dir=workload_dir, root=ROOT)
