"""Publish and unpublish, on the real kernel."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import pytest

from dynvol.mount import mountinfo, propagation, syscalls, targets
from dynvol.mount.errors import StackedMounts, StaleMount, WrongMount
from dynvol.mount.mountinfo import MountTable
from dynvol.mount.syscalls import MountFlag
from dynvol.mount.targets import Placement
from unit.mount.namespaces import Namespace

pytestmark = pytest.mark.root

T = TypeVar("T")


def lay_out(playground: str, *, shared: bool = True) -> Placement:
    """A host: state and kubelet directories on a shared mount, as systemd makes it."""
    if shared:
        syscalls.mount(playground, flags=MountFlag.SHARED)
    os.makedirs(f"{playground}/kubelet/volume")
    return Placement(
        target=f"{playground}/kubelet/volume/mount",
        workload_dir=f"{playground}/state/xvols/class/uuid/pod",
        root=f"{playground}/state/xvols/class/uuid",
    )


def publish(placement: Placement) -> None:
    targets.publish(placement.target, workload_dir=placement.workload_dir, root=placement.root)


def table_lines() -> list[tuple[str, str, str]]:
    return sorted((m.path, m.root, m.fstype) for m in mountinfo.read())


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_mounted_below_the_workload_directory_shows_below_the_target(playground: str, shared: bool) -> None:
    placement = lay_out(playground, shared=shared)
    publish(placement)
    os.mkdir(f"{placement.workload_dir}/data")
    syscalls.mount(f"{placement.workload_dir}/data", source="bucket", fstype="tmpfs")
    with open(f"{placement.target}/data/file", "w") as file:
        file.write("x")
    assert os.path.exists(f"{placement.workload_dir}/data/file")


def test_the_root_is_read_only_and_what_is_below_is_writable(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    os.mkdir(f"{placement.workload_dir}/data")
    syscalls.mount(f"{placement.workload_dir}/data", source="bucket", fstype="tmpfs")
    with pytest.raises(OSError, match="Read-only file system"):
        os.mkdir(f"{placement.target}/planted")
    os.mkdir(f"{placement.target}/data/fine")


def test_nothing_mounted_below_the_target_comes_back(playground: str) -> None:
    placement = lay_out(playground)
    os.makedirs(f"{placement.workload_dir}/data")
    publish(placement)
    syscalls.mount(f"{placement.target}/data", source="intruder", fstype="tmpfs")
    assert mountinfo.read().at(f"{placement.workload_dir}/data") is None


def test_a_mount_below_one_root_shows_once_in_the_table_of_the_root(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    os.mkdir(f"{placement.workload_dir}/data")
    syscalls.mount(f"{placement.workload_dir}/data", source="bucket", fstype="tmpfs")
    shown = [m.path for m in mountinfo.read() if m.source == "bucket"]
    assert sorted(shown) == sorted([f"{placement.workload_dir}/data", f"{placement.target}/data"])


def test_a_first_publication_reads_the_table_once_and_a_bare_view_goes_without(
    playground: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's table may have thousands of lines, and a hundred pods start at once."""
    placement, readings, shared = lay_out(playground), list[MountTable](), mountinfo.shared

    def reading() -> MountTable:
        readings.append(shared())
        return readings[-1]

    monkeypatch.setattr(mountinfo, "shared", reading)
    publish(placement)
    assert len(readings) == 1
    targets.unpublish(placement.target)
    assert len(readings) == 1


def test_publishing_again_changes_nothing(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    before = table_lines()
    publish(placement)
    assert table_lines() == before


def test_a_late_publish_shows_what_was_mounted_before(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    targets.unpublish(placement.target)
    os.mkdir(f"{placement.workload_dir}/data")
    syscalls.mount(f"{placement.workload_dir}/data", source="bucket", fstype="tmpfs")
    publish(placement)
    assert mountinfo.read().at(f"{placement.target}/data") is not None
    syscalls.unmount(f"{placement.workload_dir}/data")
    assert mountinfo.read().at(f"{placement.target}/data") is None


def test_ten_cycles_leave_the_table_and_the_tree_as_they_were(playground: str) -> None:
    placement = lay_out(playground)
    before = table_lines()
    for _ in range(10):
        publish(placement)
        os.mkdir(f"{placement.workload_dir}/data")
        syscalls.mount(f"{placement.workload_dir}/data", source="bucket", fstype="tmpfs")
        targets.unpublish(placement.target)
        syscalls.unmount(f"{placement.workload_dir}/data")
        assert targets.release_root(placement.root).left == ()
    assert table_lines() == before
    assert not os.path.exists(placement.target) and not os.path.exists(placement.root)


def test_a_foreign_mount_on_the_target_is_named_and_left(playground: str) -> None:
    placement = lay_out(playground)
    os.mkdir(placement.target)
    syscalls.mount(placement.target, source="foreign", fstype="tmpfs")
    with pytest.raises(WrongMount, match="foreign"):
        publish(placement)
    assert [m.source for m in mountinfo.read().stack(placement.target)] == ["foreign"]
    assert not os.path.exists(placement.root), "nothing was begun"


def test_a_foreign_mount_on_the_root_leaves_no_directory_at_the_target(playground: str) -> None:
    placement = lay_out(playground)
    os.makedirs(placement.root)
    syscalls.mount(placement.root, source="foreign", fstype="tmpfs")
    with pytest.raises(WrongMount, match="foreign"):
        publish(placement)
    assert not os.path.exists(placement.target)


def test_a_bind_of_another_workload_on_the_target_is_wrong(playground: str) -> None:
    placement = lay_out(playground)
    other = Placement(placement.target, f"{placement.root}/other", placement.root)
    publish(other)
    with pytest.raises(WrongMount, match="unpublish it first"):
        publish(placement)


def test_a_view_that_was_cut_off_is_stale(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    syscalls.unmount(placement.workload_dir, lazily=True)
    with pytest.raises(StaleMount, match="no longer receives"):
        publish(placement)


def test_stacked_mounts_on_the_target_are_seen_and_unpublished(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    syscalls.mount(placement.target, source=placement.workload_dir, flags=MountFlag.BIND)
    with pytest.raises(StackedMounts, match="2 mounts"):
        publish(placement)
    targets.unpublish(placement.target)
    assert not os.path.exists(placement.target)


def test_a_writable_bind_on_the_target_is_wrong(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    syscalls.unmount(placement.target)
    propagation.attach_bind(placement.workload_dir, placement.target, propagation=propagation.RECEIVING)
    with pytest.raises(WrongMount, match="writable"):
        publish(placement)


def test_the_workload_directory_is_found_from_the_target(playground: str) -> None:
    placement = lay_out(playground)
    assert targets.workload_of(mountinfo.read(), placement.target) is None
    publish(placement)
    assert targets.workload_of(mountinfo.read(), placement.target) == placement.workload_dir


def test_unpublish_of_nothing_is_fine(playground: str) -> None:
    placement = lay_out(playground)
    targets.unpublish(placement.target)
    targets.unpublish(f"{playground}/never/there/mount")


def test_unpublish_under_an_open_file_and_a_working_directory(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    os.mkdir(f"{placement.workload_dir}/data")
    syscalls.mount(f"{placement.workload_dir}/data", source="bucket", fstype="tmpfs")
    with open(f"{placement.target}/data/file", "w") as file:
        targets.unpublish(placement.target)
        assert not os.path.exists(placement.target)
        file.write("kept")
    with open(f"{placement.workload_dir}/data/file") as again:
        assert again.read() == "kept"


def test_kubelet_behind_a_symbolic_link(playground: str) -> None:
    placement = lay_out(playground)
    os.symlink("kubelet", f"{playground}/link")
    linked = f"{playground}/link/volume/mount"
    for _ in range(2):
        targets.publish(linked, workload_dir=placement.workload_dir, root=placement.root)
    assert targets.is_published(mountinfo.read(), placement)
    targets.unpublish(linked)
    assert not os.path.exists(placement.target)


def test_release_waits_for_what_is_mounted_and_for_views(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    os.mkdir(f"{placement.workload_dir}/data")
    syscalls.mount(f"{placement.workload_dir}/data", source="bucket", fstype="tmpfs")
    before = table_lines()
    left = {obstacle.path: obstacle.reason for obstacle in targets.release_root(placement.root).left}
    assert "bucket" in left[f"{placement.workload_dir}/data"]
    assert "still receives" in left[placement.target]
    assert table_lines() == before
    targets.unpublish(placement.target)
    syscalls.unmount(f"{placement.workload_dir}/data")
    assert targets.release_root(placement.root).left == ()
    assert targets.release_root(placement.root).left == ()
    assert not os.path.exists(placement.root)


def test_the_directory_of_a_class_goes_with_the_last_root_in_it(playground: str) -> None:
    placement = lay_out(playground)
    other = f"{playground}/state/xvols/class/other"
    for root in (placement.root, other):
        targets.make_root(root)
    targets.release_root(placement.root)
    assert os.listdir(f"{playground}/state/xvols") == ["class"]
    targets.release_root(other)
    assert os.listdir(f"{playground}/state/xvols") == []


def test_a_root_is_made_while_the_directory_of_its_class_is_taken_away(playground: str) -> None:
    placement = lay_out(playground)
    over = threading.Event()

    def another_was_the_last() -> None:
        while not over.is_set():
            with suppress(OSError):
                os.rmdir(os.path.dirname(placement.root))

    with ThreadPoolExecutor(max_workers=1) as pool:
        taking = pool.submit(another_was_the_last)
        try:
            for _ in range(100):
                targets.make_root(placement.root)
                assert targets.release_root(placement.root).left == ()
        finally:
            over.set()
    taking.result()


def test_a_file_in_a_bare_directory_stays_and_is_named(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    targets.unpublish(placement.target)
    os.makedirs(f"{placement.workload_dir}/a/b")
    with open(f"{placement.workload_dir}/a/precious", "w") as file:
        file.write("x")
    removal = targets.release_root(placement.root)
    assert [obstacle.path for obstacle in removal.left] == [f"{placement.workload_dir}/a/precious"]
    assert os.path.exists(f"{placement.workload_dir}/a/precious")
    assert not os.path.exists(f"{placement.workload_dir}/a/b")


def test_one_workload_of_a_shared_root_is_released_alone(playground: str) -> None:
    placement = lay_out(playground)
    publish(placement)
    other = Placement(f"{playground}/kubelet/volume/other", f"{placement.root}/other", placement.root)
    publish(other)
    targets.unpublish(placement.target)
    assert targets.release_workload(placement.workload_dir, root=placement.root).left == ()
    assert not os.path.exists(placement.workload_dir)
    assert targets.is_published(mountinfo.read(), other)


def test_end_to_end_through_a_mount_pod_and_containers(playground: str) -> None:
    """Host, mount pod (peer) and container (slave), the container started before and after the mount."""
    placement = lay_out(playground)
    os.makedirs(f"{playground}/container")
    data = f"{placement.workload_dir}/data"

    def container() -> None:
        syscalls.mount("/", flags=MountFlag.REC | MountFlag.SLAVE)
        syscalls.mount(f"{playground}/container", source=placement.target, flags=MountFlag.BIND | MountFlag.REC)
        syscalls.mount(f"{playground}/container", flags=MountFlag.BIND | MountFlag.REMOUNT | MountFlag.RDONLY)

    def seen() -> list[str]:
        return [m.path for m in mountinfo.read() if m.source == "bucket" and m.path.startswith(f"{playground}/container")]

    publish(placement)
    idle = table_lines()
    with Namespace.copy() as pod, Namespace.copy(prepare=container) as early:
        for _ in range(10):
            pod.run(lambda: os.makedirs(data, exist_ok=True))
            pod.run(lambda: syscalls.mount(data, source="bucket", fstype="tmpfs"))
            assert early.run(seen) == [f"{playground}/container/data"]
            with Namespace.copy(prepare=container) as late:
                for one in (early, late):
                    assert one.run(seen) == [f"{playground}/container/data"]
                    one.run(lambda: os.makedirs(f"{playground}/container/data/x", exist_ok=True))
                    with pytest.raises(AssertionError, match="Read-only"):
                        one.run(lambda: os.mkdir(f"{playground}/container/planted"))
                pod.run(lambda: syscalls.unmount(data))
                assert early.run(seen) == late.run(seen) == []
            assert table_lines() == idle


def test_a_workload_that_joins_a_running_mount_pod_gets_its_mounts(playground: str) -> None:
    """The shared policy: the second workload directory appears in a mount pod that is there already."""
    placement = lay_out(playground)
    publish(placement)
    with Namespace.copy() as pod:
        late = Placement(f"{playground}/kubelet/volume/late", f"{placement.root}/late", placement.root)
        publish(late)
        pod.run(lambda: os.mkdir(f"{late.workload_dir}/data"))
        pod.run(lambda: syscalls.mount(f"{late.workload_dir}/data", source="bucket", fstype="tmpfs"))
        shown = sorted(m.path for m in mountinfo.read() if m.source == "bucket")
        assert shown == sorted([f"{late.workload_dir}/data", f"{late.target}/data"])


def test_a_node_process_in_a_container_publishes_for_the_host_and_its_successor_takes_over(playground: str) -> None:
    """It sees nothing of the host but its state and kubelet's directory, both Bidirectional, each time in a new namespace."""
    placement = lay_out(playground)
    os.makedirs(f"{playground}/state")
    image = f"{playground}/image"
    os.mkdir(image)
    syscalls.mount(image, source="image", fstype="tmpfs")
    syscalls.mount(image, flags=MountFlag.PRIVATE)

    def container() -> None:
        for path in (f"{playground}/state", f"{playground}/kubelet", "/proc"):
            os.makedirs(f"{image}{path}", exist_ok=True)
            syscalls.mount(f"{image}{path}", source=path, flags=MountFlag.BIND | MountFlag.REC)

    def inside(work: Callable[[], T]) -> T:
        with Namespace.copy(prepare=container) as namespace:

            def confined() -> T:
                os.chroot(image)
                os.chdir("/")
                return work()

            return namespace.run(confined)

    empty = table_lines()
    inside(lambda: publish(placement))
    published = table_lines()
    assert targets.is_published(mountinfo.read(), placement)
    os.mkdir(f"{placement.workload_dir}/data")
    syscalls.mount(f"{placement.workload_dir}/data", source="bucket", fstype="tmpfs")

    inside(lambda: publish(placement))
    assert targets.is_published(mountinfo.read(), placement)
    assert inside(lambda: mountinfo.read().at(f"{placement.target}/data")) is not None

    syscalls.unmount(f"{placement.workload_dir}/data")
    assert table_lines() == published
    inside(lambda: targets.unpublish(placement.target))
    assert inside(lambda: targets.release_root(placement.root)).left == ()
    assert table_lines() == empty and not os.path.exists(placement.root)
