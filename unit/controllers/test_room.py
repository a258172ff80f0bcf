"""How many mounts a mount pod has room for, and what is said to the others."""

from __future__ import annotations

import msgspec
import pytest

from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.core import Container, Pod, PodSpec, Resources
from dynvol.api.mounts import WantedMount
from dynvol.controllers.desired import attachments, wanted_mounts
from dynvol.controllers.room import MIB, Load, memory_limit

from .objects import CLASSES, claim, pod, provider_class


def mount(number: int = 0, **parameters: str) -> WantedMount:
    return WantedMount(
        claim="ns/a", claim_uid=f"{number}", pod_uid="p", path=f"p/{number}", provider="s3", spec_hash="1", parameters=parameters
    )


def most(limit: int | None, **parameters: str) -> int:
    """How many find room, up to a hundred."""
    load = Load(limit)
    for number in range(100):
        if load.shortage(mount(number, **parameters)):
            return number
        load.add(mount(number, **parameters))
    return 100


@pytest.mark.parametrize(
    ("mib", "client", "number"),
    [(50, "s3fs", 9), (50, "", 9), (128, "s3fs", 35), (128, "rclone", 3), (10, "rclone", 1), (10, "unheard-of", 100)],
)
def test_memory_holds_so_many_clients_and_one_is_always_tried(mib: int, client: str, number: int) -> None:
    assert most(mib * MIB, mounter=client) == number


def test_pods_that_share_a_client_share_its_memory() -> None:
    there = msgspec.structs.replace(mount(), pod_uid="q", path="q/0")
    full = Load.of((mount(n) for n in range(9)), limit=50 * MIB)
    assert full.shortage(there) == ""
    full.add(there)
    assert "no more than 9 mounts" in full.shortage(mount(9))


def test_without_a_limit_only_the_annotation_limits() -> None:
    assert most(None) == 100
    assert "cannot be told" in Load(None).shortage(mount(bucket="x" * 200_000))


def test_the_sentence_says_what_there_is_and_what_to_do() -> None:
    load = Load.of((mount(n) for n in range(9)), limit=50 * MIB)
    assert load.shortage(mount(9)) == (
        "the memory of this pod's mount pod, 50Mi, holds no more than 9 mounts with s3fs; let fewer claims reach one pod, or give "
        "its class a mount-memory-limit of 3Mi more for each mount, and delete the mount pod, so that it is made anew"
    )


def test_what_a_mount_pod_was_made_with_counts_until_it_is_made_anew() -> None:
    now = provider_class(mount_memory_limit="1Gi")
    made = Pod(spec=PodSpec(containers=(Container(name="mounter", resources=Resources(limits={"memory": "50Mi"})),)))
    assert memory_limit(None, now) == 1024 * MIB
    assert memory_limit(made, now) == 50 * MIB
    assert memory_limit(Pod(spec=PodSpec(containers=(Container(),))), now) is None
    assert memory_limit(None, None) is None


def test_the_oldest_claims_have_room_whatever_the_order_in_which_they_are_found() -> None:
    def made(number: int) -> DynamicVolumeClaim:
        return claim(f"c{number}", mountpoint=f"/m{9 - number}", created=f"2026-01-01T00:00:0{number}Z")

    found = attachments(pod(), [made(n) for n in range(6)], CLASSES)
    for order in (found, found[::-1]):
        wanted = wanted_mounts(order, CLASSES, (), memory_limit=30 * MIB)
        assert [w.claim for w in wanted] == ["apps/c0", "apps/c1", "apps/c2"]
