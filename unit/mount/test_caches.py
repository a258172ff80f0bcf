"""What clients left on a node's disk: found again by whoever comes later, and removed only when nothing is lost by it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from dynvol.api.mounts import WantedMount
from dynvol.mount import caches, syscalls


def wanted(claim: str = "a", mounter: str = "rclone") -> WantedMount:
    parameters = {"bucket": "bucket", "mounter": mounter}
    return WantedMount(
        claim=f"test/{claim}", claim_uid=claim, pod_uid="pod", path="pod/data", provider="s3", spec_hash="1", parameters=parameters
    )


def fill(directory: Path, mount: WantedMount, *, number: int = 0, dirty: int = 0, clean: int = 0) -> Path:
    """A cache as rclone leaves it."""
    directory.mkdir(parents=True, exist_ok=True)
    caches.record(str(directory), mount)
    cache = directory / mount.source / str(number)
    meta = cache / "vfsMeta/s3/bucket"
    meta.mkdir(parents=True)
    for count, mark in ((dirty, "true"), (clean, "false")):
        for i in range(count):
            (meta / f"{mark}-{i}").write_text(f'{{"Dirty": {mark}}}')
    return cache


def test_what_waits_is_found_with_all_it_takes_to_mount_it_again(tmp_path: Path) -> None:
    fill(tmp_path, wanted("a"), dirty=2, clean=1)
    fill(tmp_path, wanted("a"), number=1, dirty=1)
    fill(tmp_path, wanted("b"), clean=3)
    fill(tmp_path, wanted("c", mounter="s3fs"))
    assert [(left.mount, left.files) for left in caches.leftovers(str(tmp_path))] == [(wanted("a"), 3)]
    assert {mount.claim_uid for mount in caches.recorded(str(tmp_path))} == {"a", "b", "c"}
    assert caches.numbers(str(tmp_path), wanted("a").source) == [0, 1]


def test_a_cache_that_is_of_several_claims_names_all_of_them(tmp_path: Path) -> None:
    shared = msgspec.structs.replace(wanted("a"), client="c")
    fill(tmp_path, shared, dirty=1)
    assert [left.mount.owners for left in caches.leftovers(str(tmp_path))] == [{"a/pod"}]
    caches.record(str(tmp_path), msgspec.structs.replace(shared, users=("a/pod", "b/pod")))
    assert [(left.mount.owners, left.files) for left in caches.leftovers(str(tmp_path))] == [(frozenset({"a/pod", "b/pod"}), 1)]


def test_nothing_is_left_where_nothing_is() -> None:
    assert not caches.leftovers("/nowhere")
    assert not caches.recorded("/nowhere")
    assert not caches.numbers("/nowhere", "x")
    assert not caches.release("/nowhere/at/all")


def test_release_keeps_what_is_not_in_the_storage_and_removes_the_rest(tmp_path: Path) -> None:
    directory = tmp_path / "class/uuid"
    precious = fill(directory, wanted("a"), dirty=1)
    fill(directory, wanted("b"), clean=1)
    (directory / f"{wanted('c').source}.json.new").write_text("torn")
    assert len(caches.release(str(directory))) == 2
    assert {entry.name for entry in directory.iterdir()} == {wanted("a").source, f"{wanted('a').source}.json"}
    assert len(list(precious.rglob("true-0"))) == 1
    (precious / "vfsMeta/s3/bucket/true-0").unlink()
    assert caches.release(str(directory)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_read_keeps_its_cache(tmp_path: Path) -> None:
    directory = tmp_path / "class/uuid"
    fill(directory, wanted("a"), clean=1)
    record = directory / f"{wanted('a').source}.json"
    record.write_text("{")
    assert caches.recorded(str(directory)) == []
    assert caches.release(str(directory)) != []
    assert record.exists()


def test_two_cannot_hold_the_same_caches(tmp_path: Path) -> None:
    directory = tmp_path / "class/uuid"
    fill(directory, wanted("a"), clean=1)
    with caches.holding(str(directory)):
        with pytest.raises(caches.Held), caches.holding(str(directory)):
            pass
        assert caches.release(str(directory)) == [f"{directory} is still in use"]
    assert caches.release(str(directory)) == []


def test_a_record_is_roots_alone(tmp_path: Path) -> None:
    caches.record(str(tmp_path), wanted("a"))
    (found,) = tmp_path.iterdir()
    assert found.stat().st_mode & 0o777 == 0o600


@pytest.mark.root
def test_a_cache_below_which_anything_is_mounted_stays(playground: str) -> None:
    cache = fill(Path(playground, "class/uuid"), wanted("a"), clean=1)
    os.mkdir(cache / "foreign")
    syscalls.mount(str(cache / "foreign"), source="x", fstype="tmpfs")
    (cache / "foreign/precious").write_text("x")
    assert not caches.remove(f"{playground}/class/uuid", wanted("a").source)
    assert (cache / "foreign/precious").exists()
    assert caches.recorded(f"{playground}/class/uuid") == [wanted("a")]
