"""Volumes that kubelet mounts for one pod, shown in another, on the real kernel."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dynvol.controllers.held.holderspec import HOLD
from dynvol.mount import held, mountinfo, propagation, syscalls, targets
from dynvol.mount.errors import MountInTheWay, NotHeld, SymlinkInTheWay, WrongMount
from dynvol.mount.held import Showing, Volume
from dynvol.mount.syscalls import MountFlag

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Host:
    """A node with a holder whose volume, a file system of its own, kubelet has mounted; and a pod that is published."""

    place: str

    @property
    def pods(self) -> str:
        return f"{self.place}/kubelet/pods"

    @property
    def base(self) -> str:
        return f"{self.place}/state/xvols"

    @property
    def workload_dir(self) -> str:
        return f"{self.base}/class/uuid/pod"

    @property
    def target(self) -> str:
        return f"{self.place}/kubelet/target/mount"

    @property
    def volume(self) -> Volume:
        return held.volumes(mountinfo.read(), self.pods)["holder-uid"]

    def showing(self, mountpoint: str = "data", *, sub_path: str = "", read_only: bool = False) -> Showing:
        return Showing(self.workload_dir, mountpoint, sub_path, read_only)


@pytest.fixture
def host(playground: str) -> Host:
    """Described here, made by `laid_out` in the test's own namespace."""
    return Host(playground)


def laid_out(host: Host) -> Host:
    syscalls.mount(host.place, flags=MountFlag.SHARED)
    os.makedirs(f"{host.place}/kubelet/target")
    targets.publish(host.target, workload_dir=host.workload_dir, root=f"{host.base}/class/uuid")
    add_holder(host, "holder-uid")
    for name in ("users/alice", "other"):
        os.makedirs(f"{host.volume.path}/{name}")
    with open(f"{host.volume.path}/users/alice/notes", "w") as file:
        file.write("of alice")
    return host


def add_holder(host: Host, uid: str, *, container: str = "holder", of: str = "") -> str:
    place = f"{host.pods}/{uid}/volume-subpaths/pv/{container}/0"
    os.makedirs(place)
    if of:
        propagation.attach_bind(of, place)
    else:
        syscalls.mount(place, source="disk", fstype="tmpfs")
    return place


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def below(place: str) -> Iterator[str]:
    return (mount.path for mount in mountinfo.read().below(place))


def test_a_directory_of_a_volume_is_shown_in_a_published_pod(host: Host) -> None:
    laid_out(host)
    held.show(host.volume, host.showing(sub_path="users/alice"))
    assert read(f"{host.target}/data/notes") == "of alice"
    with open(f"{host.target}/data/new", "w") as file:
        file.write("written")
    assert read(f"{host.volume.path}/users/alice/new") == "written"
    mount = mountinfo.read().at(f"{host.workload_dir}/data")
    assert mount is not None
    assert host.volume.shows(mount, sub_path="users/alice", read_only=False)
    assert not host.volume.shows(mount, sub_path="users", read_only=False)
    assert not host.volume.shows(mount, sub_path="users/alice", read_only=True)


def test_what_is_shown_has_no_power_and_may_be_read_only(host: Host) -> None:
    laid_out(host)
    held.show(host.volume, host.showing(read_only=True))
    with pytest.raises(OSError, match="Read-only file system"):
        open(f"{host.target}/data/new", "w")  # noqa: SIM115 - it is not opened
    for place in (host.workload_dir, host.target):
        mount = mountinfo.read().at(f"{place}/data")
        assert mount is not None
        assert {"ro", "nosuid", "nodev"} <= set(mount.options.split(","))


def test_a_link_in_the_volume_is_not_followed(host: Host) -> None:
    laid_out(host)
    os.symlink("/etc", f"{host.volume.path}/way-out")
    for sub_path in ("way-out", "way-out/ssl"):
        with pytest.raises(SymlinkInTheWay):
            held.show(host.volume, host.showing(sub_path=sub_path))
    assert os.listdir(host.workload_dir) == []


def test_another_mount_in_the_volume_is_not_entered(host: Host) -> None:
    laid_out(host)
    syscalls.mount(f"{host.volume.path}/other", source="secrets", fstype="tmpfs")
    with pytest.raises(MountInTheWay):
        held.show(host.volume, host.showing(sub_path="other"))


def test_what_came_into_the_volumes_place_is_not_shown_for_it(host: Host) -> None:
    """As long as the first one lives anywhere: the kernel gives the number of one that does not to the next."""
    laid_out(host)
    volume = host.volume
    add_holder(host, "elsewhere", of=volume.path)
    syscalls.unmount(volume.path)
    with pytest.raises(NotHeld):
        held.show(volume, host.showing())
    syscalls.mount(volume.path, source="another", fstype="tmpfs")
    with pytest.raises(NotHeld):
        held.show(volume, host.showing())
    assert os.listdir(host.workload_dir) == []


def test_nothing_is_shown_over_what_is_shown(host: Host) -> None:
    laid_out(host)
    held.show(host.volume, host.showing(sub_path="users"))
    with pytest.raises(WrongMount):
        held.show(host.volume, host.showing())


def test_what_is_hidden_is_gone_everywhere_with_its_directories(host: Host) -> None:
    """Files that are open stay so. Hiding what is hidden is nothing."""
    laid_out(host)
    held.show(host.volume, host.showing("deep/data"))
    with open(f"{host.target}/deep/data/file", "w") as file:
        held.hide(host.workload_dir, "deep/data")
        file.write("still written")
    held.hide(host.workload_dir, "deep/data")
    assert read(f"{host.volume.path}/file") == "still written"
    assert list(below(host.target)) == []
    assert os.listdir(host.target) == []


def test_a_holder_may_go_when_nothing_shows_its_volume_or_another_stands_for_it(host: Host) -> None:
    laid_out(host)
    first = host.volume

    def may_go(*others: Volume) -> bool:
        return held.settle(first, others=others, base=host.base, pods=host.pods)

    assert may_go()
    held.show(first, host.showing(sub_path="users"))
    assert not may_go()
    add_holder(host, "different")
    add_holder(host, "successor", of=first.path)
    volumes = held.volumes(mountinfo.read(), host.pods)
    assert not may_go(volumes["different"])
    assert may_go(volumes["different"], volumes["successor"])
    held.hide(host.workload_dir, "data")
    assert may_go()


def test_a_holder_ends_when_it_is_dismissed_and_not_before(host: Host) -> None:
    """Not by SIGTERM. A container that was started again has more than one file; a link in there is nobody's last words."""
    folder = f"{host.pods}/holder-uid/containers/holder"
    os.makedirs(folder)
    for name in ("first", "second"):
        open(f"{folder}/{name}", "x").close()
    held.dismiss("nobody", pods=host.pods)
    command = [part.replace(held.LAST_WORDS, f"{folder}/second") for part in HOLD]
    with subprocess.Popen(command, env={"PATH": os.defpath}, stdout=subprocess.DEVNULL, process_group=0) as holder:
        try:
            while not read(f"/proc/{holder.pid}/task/{holder.pid}/children"):
                time.sleep(0.01)  # until the shell, which tells nobody, has come to its second command
            holder.terminate()
            held.dismiss("holder-uid", pods=host.pods)
            assert holder.wait(60) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(holder.pid, signal.SIGKILL)
    os.symlink(f"{host.place}/elsewhere", f"{folder}/third")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        held.dismiss("holder-uid", pods=host.pods)
    assert not os.path.exists(f"{host.place}/elsewhere")
    assert "nobody needs the volume" in read(f"{folder}/first")


def test_only_the_holders_container_tells_what_is_held(host: Host) -> None:
    laid_out(host)
    add_holder(host, "injected", container="sidecar")
    assert list(held.volumes(mountinfo.read(), host.pods)) == ["holder-uid"]
