"""The mount table as the controllers ask it. What is done to mounts is tested with real ones, in unit/mount and e2e."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, cast

from dynvol.controllers.nodemounts import KernelMounts
from dynvol.mount.executor import MountExecutor
from dynvol.mount.mountinfo import MountTable, parse_line
from dynvol.mount.watch import MountWatcher

BASE = "/var/lib/dynamic/xvols"
ROOT = f"{BASE}/s3/u-1"


def line(number: int, path: str, source: str, *, parent: int = 1, fstype: str = "fuse.s3fs") -> str:
    return f"{number} {parent} 0:{number} / {path} rw shared:{number} - {fstype} {source} rw"


def table(*lines: str) -> MountTable:
    return MountTable(tuple(mount for text in ("1 1 8:1 / / rw - ext4 /dev/a rw", *lines) if (mount := parse_line(text))))


def mounts(shown: MountTable, state_dir: Path | str = "/var/lib/dynamic") -> tuple[KernelMounts, Any]:
    watcher = SimpleNamespace(table=shown)
    return KernelMounts(str(state_dir), watcher=cast(MountWatcher, watcher), executor=cast(MountExecutor, None)), watcher


SERVED = table(
    line(2, ROOT, "/dev/a", fstype="ext4"),
    line(3, f"{ROOT}/pod-a", "/dev/a", parent=2, fstype="ext4"),
    line(4, f"{ROOT}/pod-a/data", "dynvol-claim-1-abc", parent=3),
    line(5, f"{ROOT}/pod-b/deep/er", "dynvol-claim-1-abc", parent=2),
    line(6, f"{ROOT}/pod-b/other", "dynvol-claim-2-def", parent=2),
    line(7, f"{BASE}/s3/u-2/pod-c/data", "somebody-else"),
    line(8, "/elsewhere/data", "dynvol-claim-1-abc"),
)


def test_a_claim_occupies_the_pods_below_whose_directories_it_is_mounted() -> None:
    asked, _ = mounts(SERVED)
    assert asked.pods_of_claim("claim-1") == {"pod-a", "pod-b"}
    assert asked.pods_of_claim("claim-2") == {"pod-b"}
    assert asked.pods_of_claim("claim-3") == frozenset()


def test_what_several_claims_may_share_is_told_by_where_it_is() -> None:
    shared = table(
        line(4, f"{ROOT}/pod-a/data", "dynvol-shared-1"), line(5, f"{ROOT}/pod-b/deep/er", "dynvol-shared-1"), line(6, ROOT, "x")
    )
    asked, _ = mounts(shared)
    assert asked.nameless("u-1") == {"pod-a/data", "pod-b/deep/er"}
    assert asked.nameless("u-2") == asked.pods_of_claim("shared") == frozenset()


def test_answers_are_of_the_present_table() -> None:
    asked, watcher = mounts(SERVED)
    assert asked.pods_of_claim("claim-2")
    watcher.table = table()
    assert not asked.pods_of_claim("claim-2")
    assert asked.below(PurePosixPath(ROOT)) == {}


def test_only_what_a_mounter_mounts_counts() -> None:
    asked, _ = mounts(SERVED)
    assert asked.source_at(PurePosixPath(ROOT, "pod-a", "data")) == "dynvol-claim-1-abc"
    assert asked.source_at(PurePosixPath(ROOT, "pod-a")) is None
    assert len(asked.below(PurePosixPath(ROOT))) == 3
    assert asked.below(PurePosixPath(BASE, "s3", "u-2")) == {}


def test_every_path_below_a_root_belongs_to_its_workload() -> None:
    asked, _ = mounts(SERVED)
    assert asked.uuid_of(PurePosixPath(ROOT)) == asked.uuid_of(PurePosixPath(ROOT, "pod-b", "deep")) == "u-1"
    assert asked.uuid_of(PurePosixPath("/elsewhere/data")) is None


async def test_a_stray_file_among_the_roots_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "xvols" / "s3" / "u-1").mkdir(parents=True)
    (tmp_path / "xvols" / "notes.txt").write_text("someone's")
    asked, _ = mounts(table(), tmp_path)
    assert await asked.roots() == {"u-1": PurePosixPath(tmp_path, "xvols", "s3", "u-1")}
