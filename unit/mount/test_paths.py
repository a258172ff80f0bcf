"""Directories below a root, with openat2 and without it."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.mount import mountinfo, paths, syscalls
from dynvol.mount.errors import FileInTheWay, MountInTheWay, SymlinkInTheWay, UnsafePath
from dynvol.mount.mountinfo import MountTable
from dynvol.mount.syscalls import MountFlag

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True, params=[True, False], ids=["openat2", "walk"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "has_openat2", lambda: request.param)


@pytest.mark.parametrize(
    "bad", ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b", "x" * 256, "é" * 128, "/".join("a" * 129)]
)
def test_a_path_that_is_not_normal_and_relative_is_unsafe(playground: str, bad: str) -> None:
    with pytest.raises(UnsafePath):
        paths.make_directory_below(playground, bad)
    assert os.listdir(playground) == []


@given(st.text(max_size=30))
def test_components_are_refused_or_lead_down(text: str) -> None:
    try:
        parts = paths.components(text)
    except UnsafePath:
        return
    assert "/".join(parts) == text
    assert os.path.normpath(f"/root/{text}") == f"/root/{text}"


@pytest.mark.parametrize("bad", ["a", "/", "/a/", "/a/../b", "//a", ""])
def test_only_absolute_normal_paths_are_canonical(bad: str) -> None:
    with pytest.raises(UnsafePath):
        paths.canonical(bad)


def test_directories_are_made_with_the_mode_asked_for(playground: str) -> None:
    os.umask(0o077)
    assert paths.make_directory_below(playground, "a/b/c", mode=0o751) == tuple(f"{playground}/{p}" for p in ("a", "a/b", "a/b/c"))
    assert stat.S_IMODE(os.stat(f"{playground}/a/b").st_mode) == 0o751
    assert paths.make_directory_below(playground, "a/b/d") == (f"{playground}/a/b/d",)
    assert stat.S_IMODE(os.stat(f"{playground}/a/b").st_mode) == 0o751


@pytest.mark.parametrize("where", ["link", "link/below", "a/link", "a/link/below"])
@pytest.mark.parametrize("to", ["/etc", ".", "..", "a", "/nowhere"])
def test_no_symbolic_link_is_followed(playground: str, where: str, to: str) -> None:
    os.mkdir(f"{playground}/a")
    os.symlink(to, f"{playground}/link")
    os.symlink(to, f"{playground}/a/link")
    with pytest.raises(SymlinkInTheWay):
        paths.make_directory_below(playground, where)
    with pytest.raises(SymlinkInTheWay):
        paths.open_below(playground, where)
    removal = paths.remove_empty_directories_below(playground, where)
    assert removal.removed == () and len(removal.left) == 1
    assert sorted(os.listdir(playground)) == ["a", "link"]


def test_a_root_that_is_a_link_is_refused(playground: str) -> None:
    os.symlink("/etc", f"{playground}/root")
    with pytest.raises(SymlinkInTheWay):
        paths.make_directory_below(f"{playground}/root", "a")


def test_a_file_in_the_way_is_named(playground: str) -> None:
    with open(f"{playground}/file", "w"):
        pass
    for path in ("file", "file/below"):
        with pytest.raises(FileInTheWay, match=f"{playground}/file"):
            paths.make_directory_below(playground, path)


def test_a_foreign_mount_is_not_entered(playground: str) -> None:
    os.mkdir(f"{playground}/a")
    syscalls.mount(f"{playground}/a", source="foreign", fstype="tmpfs")
    for path in ("a", "a/b"):
        with pytest.raises(MountInTheWay, match="foreign"):
            paths.make_directory_below(playground, path)
    assert os.listdir(f"{playground}/a") == []


def test_a_mount_that_appears_after_the_table_was_read_is_not_entered(playground: str) -> None:
    os.mkdir(f"{playground}/a")
    before = mountinfo.read()
    syscalls.mount(f"{playground}/a", source="foreign", fstype="tmpfs")
    with pytest.raises(MountInTheWay):
        paths.make_directory_below(playground, "a/b", table=before)
    assert os.listdir(f"{playground}/a") == []


def test_a_bind_of_the_same_file_system_is_entered(playground: str) -> None:
    os.mkdir(f"{playground}/a")
    syscalls.mount(f"{playground}/a", source=f"{playground}/a", flags=MountFlag.BIND)
    assert paths.make_directory_below(playground, "a/b") == (f"{playground}/a/b",)


def test_what_is_opened_is_what_the_path_names(playground: str) -> None:
    paths.make_directory_below(playground, "a/b")
    fd = paths.open_below(playground, "a/b")
    assert os.fstat(fd).st_ino == os.stat(f"{playground}/a/b").st_ino
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        paths.open_below(playground, "a/c")


def test_empty_parents_go_and_the_root_stays(playground: str) -> None:
    paths.make_directory_below(playground, "a/b/c")
    removal = paths.remove_empty_directories_below(playground, "a/b/c")
    assert removal.left == () and removal.removed == tuple(f"{playground}/{p}" for p in ("a/b/c", "a/b", "a"))
    assert os.listdir(playground) == []


def test_removal_starts_where_something_is_left(playground: str) -> None:
    paths.make_directory_below(playground, "a/b")
    assert paths.remove_empty_directories_below(playground, "a/b/c/d").removed == (f"{playground}/a/b", f"{playground}/a")
    assert paths.remove_empty_directories_below(playground, "a/b/c/d") == paths.Removal((), ())


def test_removal_stops_at_what_is_in_use(playground: str) -> None:
    paths.make_directory_below(playground, "a/b/c")
    with open(f"{playground}/a/keep", "w"):
        pass
    removal = paths.remove_empty_directories_below(playground, "a/b/c")
    assert [o.path for o in removal.left] == [f"{playground}/a"] and "not empty" in removal.left[0].reason


def test_removal_stops_at_a_mount_point(playground: str) -> None:
    os.mkdir(f"{playground}/a")
    syscalls.mount(f"{playground}/a", source=f"{playground}/a", flags=MountFlag.BIND)
    paths.make_directory_below(playground, "a/b")
    removal = paths.remove_empty_directories_below(playground, "a/b")
    assert removal.removed == (f"{playground}/a/b",) and "mounted here" in removal.left[0].reason
    assert mountinfo.read().at(f"{playground}/a") is not None


def test_a_tree_with_a_mount_in_it_is_not_touched(playground: str) -> None:
    paths.make_directory_below(playground, "t/a/b")
    paths.make_directory_below(playground, "t/c")
    syscalls.mount(f"{playground}/t/a/b", source="foreign", fstype="tmpfs")
    removal = paths.remove_empty_tree(f"{playground}/t")
    assert removal.removed == () and [o.path for o in removal.left] == [f"{playground}/t/a/b"]
    assert os.path.isdir(f"{playground}/t/c")


def test_a_tree_walk_does_not_enter_a_mount_that_the_table_did_not_show(playground: str) -> None:
    paths.make_directory_below(playground, "t/a")
    syscalls.mount(f"{playground}/t/a", source="foreign", fstype="tmpfs")
    os.mkdir(f"{playground}/t/a/remote")
    removal = paths.remove_empty_tree(f"{playground}/t", table=MountTable(()))
    assert removal.removed == () and os.listdir(f"{playground}/t/a") == ["remote"]


def test_files_and_links_in_a_tree_stay_with_their_parents(playground: str) -> None:
    paths.make_directory_below(playground, "t/a/b")
    paths.make_directory_below(playground, "t/c/d")
    os.symlink("/etc", f"{playground}/t/a/link")
    removal = paths.remove_empty_tree(f"{playground}/t")
    assert [o.path for o in removal.left] == [f"{playground}/t/a/link"]
    assert sorted(removal.removed) == [f"{playground}/t/{p}" for p in ("a/b", "c", "c/d")]
    assert os.path.islink(f"{playground}/t/a/link")


def test_a_tree_that_is_not_there_is_removed(playground: str) -> None:
    assert paths.remove_empty_tree(f"{playground}/x/y") == paths.Removal((), ())
    assert paths.remove_empty_tree(f"{playground}/x") == paths.Removal((), ())


def test_no_descriptor_is_left_open(playground: str) -> None:
    before = os.listdir("/proc/self/fd")
    paths.make_directory_below(playground, "a/b/c")
    os.symlink("x", f"{playground}/a/b/c/link")
    with pytest.raises(SymlinkInTheWay):
        paths.make_directory_below(playground, "a/b/c/link/d")
    paths.remove_empty_directories_below(playground, "a/b/c/link")
    paths.remove_empty_tree(f"{playground}/a")
    assert os.listdir("/proc/self/fd") == before
