"""Binds and peer groups, built detached and built on a stage."""

from __future__ import annotations

import errno
import os
import stat
import tempfile

import pytest

from dynvol.mount import mountinfo, propagation, syscalls
from dynvol.mount.errors import MountBusy, MountError, NotMounted, WrongMount
from dynvol.mount.mountinfo import Mount
from dynvol.mount.syscalls import MountFlag
from unit.mount.namespaces import Namespace

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True, params=[True, False], ids=["detached", "staged"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, playground: str) -> None:
    monkeypatch.setattr(syscalls, "has_mount_api", lambda: request.param)
    monkeypatch.setattr(tempfile, "tempdir", playground)


def directories(playground: str, *names: str) -> list[str]:
    for name in names:
        os.makedirs(f"{playground}/{name}")
    return [f"{playground}/{name}" for name in names]


def at(path: str) -> Mount:
    mount = mountinfo.read().at(path)
    assert mount is not None
    return mount


def test_a_bind_is_made_once(playground: str) -> None:
    source, target = directories(playground, "source/inner", "target")
    assert propagation.bind(source, target)
    assert not propagation.bind(source, target)
    assert len(mountinfo.read().stack(target)) == 1 and at(target).root == "/source/inner"


def test_a_directory_is_bound_onto_itself_once(playground: str) -> None:
    (place,) = directories(playground, "place")
    assert propagation.bind(place, place)
    assert not propagation.bind(place, place)


def test_a_bind_of_something_else_is_wrong(playground: str) -> None:
    one, two, target = directories(playground, "one", "two", "target")
    propagation.bind(one, target)
    with pytest.raises(WrongMount, match="unmount it first"):
        propagation.bind(two, target)
    with pytest.raises(WrongMount, match="writable, wanted read-only"):
        propagation.bind(one, target, read_only=True)


def test_a_read_only_bind_keeps_its_other_flags_and_leaves_the_source_alone(playground: str) -> None:
    source, target = directories(playground, "source", "target")
    syscalls.mount(source, source="x", fstype="tmpfs", flags=MountFlag.NOSUID | MountFlag.NOEXEC)
    propagation.bind(source, target, read_only=True)
    assert {"ro", "nosuid", "noexec"} <= set(at(target).options.split(","))
    assert not at(source).read_only
    with pytest.raises(OSError, match="Read-only"):
        os.mkdir(f"{target}/x")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_powerless_bind_honours_neither_set_user_id_bits_nor_devices(playground: str, read_only: bool) -> None:
    source, target = directories(playground, "source", "target")
    syscalls.mount(source, source="x", fstype="tmpfs")
    os.mknod(f"{source}/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    propagation.attach_bind(source, target, read_only=read_only, powerless=True)
    assert {"nosuid", "nodev"} <= set(at(target).options.split(","))
    assert at(target).read_only is read_only
    with pytest.raises(PermissionError):
        os.open(f"{target}/null", os.O_RDONLY)


def test_only_the_top_of_a_recursive_bind_is_read_only(playground: str) -> None:
    source, target = directories(playground, "source", "target")
    os.mkdir(f"{source}/inner")
    syscalls.mount(f"{source}/inner", source="x", fstype="tmpfs")
    propagation.bind(source, target, read_only=True, recursive=True)
    os.mkdir(f"{target}/inner/fine")
    assert at(target).read_only and not at(f"{target}/inner").read_only


def test_an_own_peer_group_is_shared_with_those_it_propagates_to_and_no_others(playground: str) -> None:
    (place,) = directories(playground, "place")
    syscalls.mount(playground, flags=MountFlag.SHARED)
    with Namespace.copy() as peer:
        propagation.attach_bind(place, place, propagation=propagation.OWN_PEER_GROUP)
        group = at(place).peer_group
        assert group not in (None, at(playground).peer_group)
        assert peer.run(lambda: at(place).peer_group) == group


def test_propagation_changes_are_made_once(playground: str) -> None:
    (place,) = directories(playground, "place")
    propagation.bind(place, place)
    for change in (propagation.make_shared, propagation.make_private, propagation.make_unbindable):
        assert change(place)
        assert not change(place)
    assert not propagation.make_slave(place), "there is no group to receive from"


def test_a_recursive_change_looks_at_what_is_below(playground: str) -> None:
    (place,) = directories(playground, "place/inner")
    syscalls.mount(playground, flags=MountFlag.SHARED)
    propagation.bind(place, place)
    propagation.make_private(playground)
    assert not propagation.make_private(playground)
    assert propagation.make_private(playground, recursive=True)
    assert at(place).peer_group is None
    assert not propagation.make_private(playground, recursive=True)


def test_a_change_of_what_is_no_mount_is_refused(playground: str) -> None:
    (place,) = directories(playground, "place")
    with pytest.raises(NotMounted, match="propagation"):
        propagation.make_shared(place)


def test_a_failed_bind_leaves_nothing(playground: str) -> None:
    (source,) = directories(playground, "source")
    before = len(mountinfo.read()), sorted(os.listdir(playground))
    with pytest.raises(MountError) as raised:
        propagation.bind(source, f"{playground}/missing", read_only=True)
    assert raised.value.errno == errno.ENOENT and "missing" in str(raised.value)
    assert (len(mountinfo.read()), sorted(os.listdir(playground))) == before


def test_errors_say_what_was_tried(playground: str) -> None:
    (place,) = directories(playground, "place")
    syscalls.mount(place, source="x", fstype="tmpfs")
    with open(f"{place}/file", "w"), pytest.raises(MountBusy, match=r"umount2\('.*place', UMOUNT_NOFOLLOW\).*EBUSY"):
        syscalls.unmount(place)
    with pytest.raises(MountError, match="type='nonsense', MS_NODEV"):
        syscalls.mount(place, fstype="nonsense", flags=MountFlag.NODEV, data="password=secret")
    with pytest.raises(NotMounted):
        syscalls.unmount(playground + "/missing")


def test_no_error_shows_the_data_of_a_mount(playground: str) -> None:
    with pytest.raises(MountError) as raised:
        syscalls.mount(playground, fstype="nonsense", data="password=secret")
    assert "secret" not in str(raised.value) + repr(raised.value)


def test_a_symbolic_link_is_not_unmounted_through(playground: str) -> None:
    (place,) = directories(playground, "place")
    syscalls.mount(place, source="x", fstype="tmpfs")
    os.symlink(place, f"{playground}/link")
    with pytest.raises(NotMounted):
        syscalls.unmount(f"{playground}/link")
    assert at(place).source == "x"
