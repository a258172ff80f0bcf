"""The mount table: parser and indexes, without a kernel; and a look at the real one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.mount import mountinfo
from dynvol.mount.mountinfo import Mount, MountTable, parse_line

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue"


def mount(id: int, parent: int, path: str, *, root: str = "/", device: int = 1, fstype: str = "tmpfs") -> Mount:
    return Mount(id, parent, 0, device, root, path, "rw", None, None, None, False, fstype, "none", "rw")


def written(mount: Mount) -> str:
    """A line as the kernel writes it."""
    optional = [f"{name}:{value}" for name, value in _groups(mount) if value is not None] + ["unbindable"] * mount.unbindable
    fields = [
        f"{mount.id} {mount.parent} {mount.major}:{mount.minor}",
        *(escaped(text) for text in (mount.root, mount.path, mount.options)),
        *optional,
        "-",
        *(escaped(text) for text in (mount.fstype, mount.source, mount.super_options)),
    ]
    return " ".join(fields)


def escaped(text: str) -> str:
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\#" else letter for letter in text)


def _groups(mount: Mount) -> list[tuple[str, int | None]]:
    return [("shared", mount.peer_group), ("master", mount.master), ("propagate_from", mount.propagate_from)]


numbers = st.integers(0, 2**31 - 1)
names = st.binary(min_size=1, max_size=20).filter(lambda b: b"\0" not in b).map(os.fsdecode)
maybe_empty = st.one_of(st.just(""), names)
mounts = st.builds(
    Mount,
    id=numbers,
    parent=numbers,
    major=numbers,
    minor=numbers,
    root=names.map("/".__add__),
    path=names.map("/".__add__),
    options=st.sampled_from(["rw", "ro,nosuid", "rw,relatime"]),
    peer_group=st.none() | numbers,
    master=st.none() | numbers,
    propagate_from=st.none() | numbers,
    unbindable=st.booleans(),
    fstype=st.sampled_from(["ext4", "fuse.s3fs", "tmpfs"]),
    source=maybe_empty,
    super_options=names,
)


@given(mounts)
def test_what_the_kernel_writes_is_read_back(mount: Mount) -> None:
    assert parse_line(written(mount)) == mount


@given(st.lists(mounts, unique_by=lambda m: m.id), st.binary(max_size=50))
def test_a_malformed_line_hides_no_other(mounts: list[Mount], noise: bytes) -> None:
    noise = noise.replace(b"\n", b"") + b"?"
    lines = [os.fsencode(written(m)) for m in mounts]
    table = MountTable.parse(b"\n".join([*lines[:1], noise, *lines[1:], b""]))
    assert set(table) >= set(mounts) and table.malformed == 1


@given(st.binary(max_size=400))
def test_no_input_makes_the_parser_raise(data: bytes) -> None:
    MountTable.parse(data)


@given(st.lists(mounts), st.sampled_from(["/", "/a", "/a/b"]))
def test_no_table_makes_a_query_raise_or_run_for_ever(mounts: list[Mount], path: str) -> None:
    table = MountTable(mounts)
    assert all(m.path != path for m in table.below(path))
    table.stack(path), table.identity(path)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(["/", "/a", "/a/b", "/b"]))))
def test_ids_in_circles_are_survived(lines: list[tuple[int, int, str]]) -> None:
    table = MountTable([mount(*line) for line in lines])
    for path in ("/", "/a", "/a/b"):
        table.stack(path), table.below(path), table.containing(path)


def test_every_field_of_a_line() -> None:
    parsed = parse_line(LINE)
    assert parsed is not None
    assert (parsed.id, parsed.parent, parsed.device, parsed.root, parsed.path) == (36, 35, (98, 0), "/mnt1", "/mnt2")
    assert (parsed.peer_group, parsed.master, parsed.propagate_from, parsed.unbindable) == (7, 1, None, False)
    assert (parsed.fstype, parsed.source, parsed.super_options) == ("ext3", "/dev/root", "rw,errors=continue")


def test_an_empty_source_and_unescaped_spaces_in_super_options() -> None:
    parsed = parse_line("1 0 0:5 / /a rw - tmpfs  rw,note=a b c")
    assert parsed is not None and (parsed.source, parsed.super_options) == ("", "rw,note=a b c")


def test_unknown_optional_fields_are_ignored() -> None:
    parsed = parse_line("1 0 0:5 / /a rw novel novelty:3 shared:4 - tmpfs none rw")
    assert parsed is not None and parsed.peer_group == 4


def test_octal_escapes_are_decoded_once() -> None:
    parsed = parse_line(r"1 0 0:5 / /a\040b\134040\011\012\043 rw - tmpfs none rw")
    assert parsed is not None and parsed.path == "/a b\\040\t\n#"


def test_read_only_is_of_the_mount_not_of_the_file_system() -> None:
    first, second = parse_line("1 0 0:5 / /a ro,nosuid - tmpfs none rw"), parse_line("1 0 0:5 / /a rw,rotate - tmpfs none ro")
    assert first is not None and first.read_only
    assert second is not None and not second.read_only


def test_a_deleted_root_is_told() -> None:
    parsed = parse_line("1 0 0:5 /gone//deleted /a rw - ext4 none rw")
    assert parsed is not None and parsed.root_is_deleted


def test_which_file_systems_may_block() -> None:
    blocking = {"fuse", "fuse.rclone", "fuseblk", "nfs4", "cifs", "ceph", "autofs"}
    kinds = blocking | {"ext4", "tmpfs", "overlay", "fusectl", "xfs"}
    assert {kind for kind in kinds if mount(1, 0, "/", fstype=kind).may_block} == blocking


def test_lines_that_did_not_change_are_taken_over() -> None:
    first = MountTable.parse(LINE.encode())
    second = MountTable.parse(LINE.encode() + b"\n1 0 0:5 / / rw - tmpfs none rw\n", previous=first)
    assert second.get(36) is first.get(36) and len(second) == 2


def test_the_topmost_of_a_stack_is_at_the_path() -> None:
    table = MountTable([mount(1, 0, "/"), mount(2, 1, "/a"), mount(3, 2, "/a"), mount(4, 3, "/a/b")])
    assert [m.id for m in table.stack("/a")] == [2, 3]
    top, inside = table.at("/a"), table.containing("/a/b/c")
    assert top is not None and top.id == 3
    assert inside is not None and inside.id == 4


def test_a_mount_that_is_hidden_is_not_at_its_path() -> None:
    table = MountTable([mount(1, 0, "/"), mount(2, 1, "/a/b"), mount(3, 1, "/a")])
    assert table.at("/a/b") is None
    serving = table.containing("/a/b")
    assert serving is not None and serving.id == 3


def test_below_comes_in_unmount_order_and_without_neighbours() -> None:
    table = MountTable(
        [mount(1, 0, "/"), mount(2, 1, "/a"), mount(3, 2, "/a/b"), mount(4, 3, "/a/b"), mount(5, 4, "/a/b/c"), mount(6, 1, "/ab")]
    )
    assert [m.id for m in table.below("/a")] == [5, 4, 3]
    assert [m.id for m in table.below("/")] == [5, 4, 3, 6, 2]


def test_identity_is_what_a_bind_would_show() -> None:
    table = MountTable([mount(1, 0, "/", root="/os"), mount(2, 1, "/var", root="/x", device=2)])
    assert table.identity("/var/lib/a") == ((0, 2), "/x/lib/a")
    assert table.identity("/etc") == ((0, 1), "/os/etc")
    assert table.identity("/") == ((0, 1), "/os")


def test_a_directory_bound_onto_itself_covers_its_own_identity() -> None:
    table = MountTable([mount(1, 0, "/", root="/os"), mount(2, 1, "/a/b", root="/os/a/b")])
    bound = table.at("/a/b")
    assert bound is not None and table.covered_identity(bound) == (bound.device, bound.root)


def test_a_table_without_the_root_still_answers() -> None:
    table = MountTable([mount(5, 4, "/a"), mount(6, 5, "/a/b")])
    assert table.containing("/etc") is None and table.at("/a/b") is not None


def test_groups_and_devices_are_indexed() -> None:
    peer, slave = (parse_line(line) for line in (LINE, "9 35 98:0 /x /y rw master:7 - ext3 d rw"))
    assert peer is not None and slave is not None
    table = MountTable([peer, slave])
    assert table.peers(7) == (peer,) and table.slaves(7) == (slave,) and table.on_device((98, 0)) == (peer, slave)


def test_ten_thousand_lines_are_read_in_a_moment() -> None:
    lines = (f"{n} 1 0:{n} /a /pods/{n}/b\\040c rw shared:{n} master:3 - ext4 /dev/x rw" for n in range(2, 10_002))
    data = "\n".join(["1 0 0:1 / / rw - ext4 /dev/x rw", *lines]).encode()
    start = time.process_time()
    table = MountTable.parse(data)
    assert table.at("/pods/77/b c") is not None and len(table.below("/pods/77")) == 1
    MountTable.parse(data, previous=table)
    assert time.process_time() - start < 1.0


def test_what_the_mounter_needs_imports_nothing_heavy() -> None:
    light = ["errors", "fuse", "mountinfo", "nfs", "paths", "propagation", "syscalls", "targets", "usage"]
    code = f"import sys, {', '.join('dynvol.mount.' + name for name in light)}; print(*sys.modules)"
    command = [sys.executable, "-I", "-c", code]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True, env={}).stdout.split()
    assert not {"asyncio", "tempfile", "msgspec", "logging", "subprocess", "hashlib", "dynvol.api"} & set(loaded)


def test_the_real_table_has_a_root_and_no_malformed_line() -> None:
    table = mountinfo.read()
    assert table.at("/") is not None and table.malformed == 0


class Queue(threading.Condition):
    """Tells who came to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.came.release()
        return super().wait(timeout)


def test_threads_that_ask_together_share_one_reading_that_began_after_they_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    readings: list[MountTable] = []

    def slowly(path: str) -> MountTable:
        readings.append(table := MountTable(()))
        assert let_go.wait(10)
        return table

    monkeypatch.setattr(mountinfo, "read", slowly)
    shared = mountinfo.SharedReading()
    shared._changed = queue = Queue()  # type: ignore[misc]
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(shared) for _ in range(8)]
        for _ in asked[1:]:
            assert queue.came.acquire(timeout=10)
        let_go.set()
        given = [answer.result(10) for answer in asked]
    assert len(readings) == 2, "the first began before the others asked"
    assert sorted(map(given.count, readings)) == [1, 7]


def test_a_reading_that_failed_is_shared_with_no_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str) -> MountTable:
        raise OSError(errno.EMFILE, "too many open files")

    shared = mountinfo.SharedReading()
    good = shared()
    monkeypatch.setattr(mountinfo, "read", fails)
    for _ in range(2):
        with pytest.raises(OSError, match="too many"):
            shared()
    monkeypatch.undo()
    assert shared() is not good
