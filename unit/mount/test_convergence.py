"""Killed at each system call, repeated by another process: publish, unpublish and release always get there."""

from __future__ import annotations

import os
import signal
import tempfile

import pytest

from dynvol.mount import fuse, mountinfo, syscalls, targets
from dynvol.mount.targets import Placement
from unit.mount import fusedaemon
from unit.mount.killing import at_each_call
from unit.mount.namespaces import Namespace, at_most
from unit.mount.test_targets import lay_out, publish, table_lines

pytestmark = pytest.mark.root


def mounted_pod(playground: str) -> Placement:
    placement = lay_out(playground)
    publish(placement)
    for name in ("data", "more"):
        os.mkdir(f"{placement.workload_dir}/{name}")
        syscalls.mount(f"{placement.workload_dir}/{name}", source="bucket", fstype="tmpfs")
    return placement


@pytest.mark.parametrize("modern", [True, False], ids=["detached", "staged"])
def test_publish_converges_from_every_intermediate_state(playground: str, monkeypatch: pytest.MonkeyPatch, modern: bool) -> None:
    monkeypatch.setattr(syscalls, "has_mount_api", lambda: modern)
    monkeypatch.setattr(tempfile, "tempdir", playground)
    placement = lay_out(playground)
    idle = table_lines()
    calls = []
    for call in at_each_call(lambda: publish(placement)):
        calls.append(call)
        publish(placement)
        assert targets.is_published(mountinfo.read(), placement)
        assert len(mountinfo.read().stack(placement.target)) == len(mountinfo.read().stack(placement.root)) == 1
        targets.unpublish(placement.target)
        assert targets.release_root(placement.root).left == ()
        assert table_lines() == idle and not os.path.exists(placement.root)
    assert calls.count("move_mount" if modern else "mount") >= 3


def test_unpublish_converges_from_every_intermediate_state(playground: str) -> None:
    placement = mounted_pod(playground)
    targets.unpublish(placement.target)
    idle = table_lines()
    calls = []
    for call in at_each_call(lambda: targets.unpublish(placement.target), before=lambda: publish(placement)):
        calls.append(call)
        targets.unpublish(placement.target)
        assert not os.path.exists(placement.target)
        assert table_lines() == idle
    assert calls == ["umount"] * 4 + ["remove"], "the first is refused by the kernel, as more is mounted below"


def test_unpublish_of_a_bare_view_converges_without_the_table(playground: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many mounts the node has, it costs the same."""
    placement = lay_out(playground)
    publish(placement)
    targets.unpublish(placement.target)
    idle = table_lines()

    def unpublish() -> None:
        with monkeypatch.context() as blind:
            blind.delattr(mountinfo, "shared")
            targets.unpublish(placement.target)

    calls = []
    for call in at_each_call(unpublish, before=lambda: publish(placement)):
        calls.append(call)
        unpublish()
        assert not os.path.exists(placement.target)
        assert table_lines() == idle
    assert calls == ["umount", "remove"]


def test_a_half_unpublished_target_is_published_again(playground: str) -> None:
    """Kubelet may change its mind: after an interrupted unpublish comes a publish, and what it makes is right."""
    placement = mounted_pod(playground)
    calls = []
    for call in at_each_call(lambda: targets.unpublish(placement.target)):
        calls.append(call)
        publish(placement)
        assert targets.is_published(mountinfo.read(), placement)
        targets.unpublish(placement.target)
        publish(placement)
        assert mountinfo.read().at(f"{placement.target}/data") is not None
    assert len(calls) == 5


def test_release_converges_from_every_intermediate_state(playground: str) -> None:
    placement = lay_out(playground)
    idle = table_lines()

    def a_pod_came_and_went() -> None:
        targets.release_root(placement.root)
        publish(placement)
        os.makedirs(f"{placement.workload_dir}/a/b")
        targets.unpublish(placement.target)

    calls = []
    for call in at_each_call(lambda: targets.release_root(placement.root), before=a_pod_came_and_went):
        calls.append(call)
        assert targets.release_root(placement.root).left == ()
        assert table_lines() == idle and not os.path.exists(os.path.dirname(placement.root))
    assert sorted(calls) == ["remove"] * 5 + ["umount"] * 2


def test_clearing_what_a_dead_mount_pod_left_converges_and_never_meets_a_neighbour_that_lives(playground: str) -> None:
    """Two pods on a node, both with a mount; the mount pod of one died, and a program of the other reads all the while."""
    dead, alive = lay_out(playground), _neighbour(playground)
    for placement in (dead, alive):
        publish(placement)
        for name in ("one", "two"):
            os.mkdir(f"{placement.workload_dir}/{name}")
    with Namespace.copy() as mount_pod:
        for name in ("one", "two"):
            fusedaemon.start_daemon(mount_pod, f"{alive.workload_dir}/{name}", source=f"alive-{name}")

        def a_mount_pod_died() -> None:
            for name in ("one", "two"):
                pid = fusedaemon.start_daemon(mount_pod, f"{dead.workload_dir}/{name}", source=f"dead-{name}")
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

        calls = []
        for call in at_each_call(lambda: fuse.clear_dead(dead.root), before=a_mount_pod_died):
            calls.append(call)
            fuse.clear_dead(dead.root)
            assert not [m for m in mountinfo.read() if m.source.startswith("dead-")]
            with at_most(10), open(f"{alive.target}/one/hello", "rb") as file:
                assert file.read() == fusedaemon.CONTENT
        assert calls.count("umount") == 2
        fuse.clear_dead(dead.root)
        targets.unpublish(dead.target)
        assert targets.release_root(dead.root).left == ()
        assert {m.source for m in mountinfo.read() if m.path.startswith(alive.target + "/")} == {"alive-one", "alive-two"}


def _neighbour(playground: str) -> Placement:
    os.makedirs(f"{playground}/kubelet/other")
    root = f"{playground}/state/xvols/class/other"
    return Placement(target=f"{playground}/kubelet/other/mount", workload_dir=f"{root}/pod", root=root)
