from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.api import names
from dynvol.api.claim import S3Config
from dynvol.api.core import Pod, SecurityContext
from dynvol.api.mounts import MountReport, Phase, WantedMount, overlap
from dynvol.api.providerclass import StorageProviderClass
from dynvol.controllers.desired import Attachment, attachments, path_in_container, wanted_mount, wanted_mounts, workload

from .objects import CLASSES, claim, pod, provider_class, volume


def only(found: tuple[Attachment, ...]) -> Attachment:
    (attachment,) = found
    return attachment


def test_a_claim_reaches_a_matching_pod_of_its_namespace() -> None:
    attachment = only(attachments(pod(), [claim()], CLASSES))
    assert attachment.refusal is None
    assert attachment.path == "uid-web-1/data"


@pytest.mark.parametrize(
    "unreached",
    [
        pytest.param(pod(namespace="other"), id="another namespace"),
        pytest.param(pod(labels={"app": "db"}), id="other labels"),
        pytest.param(pod(volumes=()), id="no dynamic volume"),
        pytest.param(pod(phase="Succeeded"), id="finished"),
        pytest.param(pod(volumes=(volume("nfs"),)), id="another provider"),
    ],
)
def test_a_pod_that_is_not_concerned_is_left_alone(unreached: Pod) -> None:
    assert attachments(unreached, [claim()], CLASSES | {"nfs": provider_class("nfs", provider="nfs")}) == ()


def test_the_empty_selector_reaches_every_pod_with_a_dynamic_volume() -> None:
    assert attachments(pod(labels={}), [claim(labels={})], CLASSES)


def test_a_claim_on_its_way_out_reaches_no_pod() -> None:
    assert attachments(pod(), [claim(deleting=True)], CLASSES) == ()


def test_a_terminating_pod_keeps_its_mounts() -> None:
    assert only(attachments(pod(deleting=True), [claim()], CLASSES)).refusal is None


def test_a_missing_class_is_told() -> None:
    refusal = only(attachments(pod(), [claim()], {})).refusal
    assert refusal is not None
    assert (refusal.reason, "s3-sample" in refusal.message) == ("ClassNotFound", True)


@pytest.mark.parametrize(
    "pinned",
    [
        provider_class(allowed_namespaces="others"),
        provider_class(allowed_endpoints="https://s3"),
        provider_class(allowed_buckets="others-*"),
    ],
    ids=["namespace", "endpoint", "bucket"],
)
def test_what_the_class_does_not_allow_is_refused_and_blocks_no_path(pinned: StorageProviderClass) -> None:
    classes = {"s3-sample": pinned}
    refusal = only(attachments(pod(), [claim()], classes)).refusal
    assert refusal is not None and refusal.reason == "NotAllowed"
    assert refusal.message.startswith("StorageProviderClass s3-sample does not allow the ")
    assert wanted_mounts(attachments(pod(), [claim()], classes), classes, ()) == ()


def test_a_claim_that_the_class_refuses_does_not_outrank_a_younger_one() -> None:
    classes = {"s3-sample": provider_class(allowed_buckets="mine")}
    younger = claim("younger", s3=S3Config(bucket="mine"), created="2026-01-01T00:00:01Z")
    refused = {a.claim.metadata.name for a in attachments(pod(), [claim("older"), younger], classes) if a.refusal}
    assert refused == {"older"}


def test_two_volumes_of_one_provider_need_a_named_class() -> None:
    both = pod(volumes=(volume("a", name="va"), volume("b", name="vb")))
    classes = {"a": provider_class("a"), "b": provider_class("b")}
    refusal = only(attachments(both, [claim()], classes)).refusal
    assert refusal is not None and refusal.reason == "AmbiguousClass"
    chosen = only(attachments(both, [claim(provider_class="b")], classes))
    assert chosen.volume is not None and chosen.volume.name == "vb"
    assert path_in_container(chosen) == "/root-1/data"


@pytest.mark.parametrize("mountpoint", ["/data", "/data/sub", "/data/sub/deeper"])
def test_of_overlapping_mountpoints_the_older_wins_and_the_younger_names_it(mountpoint: str) -> None:
    older, younger = claim("older"), claim("younger", mountpoint=mountpoint, created="2026-01-01T00:00:01Z")
    first, second = attachments(pod(), [younger, older], CLASSES)
    assert first.claim is older and first.refusal is None
    assert second.refusal is not None and second.refusal.phase == Phase.CONFLICT
    assert "older" in second.refusal.message


def test_a_claim_that_lost_stands_in_no_ones_way() -> None:
    oldest = claim("a", mountpoint="/data/deep", created="2026-01-01T00:00:00Z")
    lost = claim("b", mountpoint="/data", created="2026-01-01T00:00:01Z")
    youngest = claim("c", mountpoint="/data/other", created="2026-01-01T00:00:02Z")
    refused = {a.claim.metadata.name for a in attachments(pod(), [oldest, lost, youngest], CLASSES) if a.refusal}
    assert refused == {"b"}


def test_equal_mountpoints_in_different_volumes_do_not_conflict() -> None:
    both = pod(volumes=(volume("a", name="va"), volume("b", name="vb")))
    classes = {"a": provider_class("a"), "b": provider_class("b")}
    claims = [claim("one", provider_class="a"), claim("two", provider_class="b")]
    assert [a.refusal for a in attachments(both, claims, classes)] == [None, None]


names_of_paths = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(names_of_paths, max_size=8), st.randoms(use_true_random=False))
def test_any_order_of_claims_gives_the_same_mounts_and_none_overlap(paths: list[str], shuffler: random.Random) -> None:
    claims = [claim(f"c{i}", mountpoint=p, created=f"2026-01-01T00:00:{i // 2:02}Z") for i, p in enumerate(paths)]
    shuffled = claims[:]
    shuffler.shuffle(shuffled)
    found = attachments(pod(), claims, CLASSES)
    assert found == attachments(pod(), shuffled, CLASSES)
    mounted = [a.claim.spec.mountpoint for a in found if a.refusal is None]
    assert not any(overlap(a, b) for i, a in enumerate(mounted) for b in mounted[i + 1 :])


def test_shared_volumes_of_a_namespace_have_one_mount_pod() -> None:
    a, b = pod("a", volumes=(volume(policy="shared"),)), pod("b", volumes=(volume(policy="shared"),))
    elsewhere = pod("c", namespace="other", volumes=(volume(policy="shared"),))
    uuids = {workload(p, only(attachments(p, [claim(namespace=p.metadata.namespace)], CLASSES)).volume).uuid for p in (a, b)}  # type: ignore[arg-type]
    other = only(attachments(elsewhere, [claim(namespace="other")], CLASSES)).volume
    assert len(uuids) == 1
    assert other is not None and workload(elsewhere, other).uuid not in uuids


def test_pods_that_share_a_mount_pod_share_a_mount_unless_it_shows_them_other_owners() -> None:
    def source(name: str, *, policy: str, uid: int = 7) -> str:
        one = pod(name, volumes=(volume(policy=policy),), security=SecurityContext(run_as_user=uid))
        return wanted_mount(only(attachments(one, [claim()], CLASSES)), CLASSES["s3-sample"]).source

    assert source("a", policy="shared") == source("b", policy="shared")
    assert source("a", policy="shared") != source("b", policy="shared", uid=8)
    assert source("a", policy="independent") != source("b", policy="independent")


def test_claims_on_one_storage_share_a_client_where_pods_share_a_mount_pod() -> None:
    def mounted(name: str, *, policy: str = "shared", **fields: object) -> WantedMount:
        one = pod(name, volumes=(volume(policy=policy),))
        return wanted_mount(only(attachments(one, [claim(f"of-{name}", **fields)], CLASSES)), CLASSES["s3-sample"])  # type: ignore[arg-type]

    same = mounted("a").source
    assert mounted("b", mountpoint="/elsewhere").source == same
    assert same.startswith("dynvol-shared-")
    others = ({"s3": S3Config(bucket="other", endpoint="http://s3")}, {"uid": 8}, {"umask": "0077"})
    assert same not in {mounted("b", **fields).source for fields in others}
    read_only = claim("of-b")
    read_only = msgspec.structs.replace(read_only, spec=msgspec.structs.replace(read_only.spec, read_only=True))
    shared = pod("b", volumes=(volume(policy="shared"),))
    assert wanted_mount(only(attachments(shared, [read_only], CLASSES)), CLASSES["s3-sample"]).source != same
    assert mounted("a", policy="independent").source != mounted("b", policy="independent").source


def hash_of(**fields: object) -> str:
    return wanted_mount(only(attachments(pod(), [claim(**fields)], CLASSES)), CLASSES["s3-sample"]).spec_hash  # type: ignore[arg-type]


def test_whatever_makes_another_mount_makes_another_hash() -> None:
    variants: list[dict[str, object]] = [
        {},
        {"mountpoint": "/elsewhere"},
        {"s3": S3Config(bucket="other", endpoint="http://s3")},
        {"s3": S3Config(bucket="bucket", endpoint="http://other")},
        {"s3": S3Config(bucket="bucket", endpoint="http://s3", prefix="p")},
        {"uid": 7},
        {"umask": "077"},
    ]
    assert len({hash_of(**v) for v in variants}) == len(variants)
    assert hash_of(labels={}) == hash_of()


@pytest.mark.parametrize(
    ("asked", "runs_as", "expected"),
    [
        ({}, SecurityContext(), {}),
        ({}, SecurityContext(run_as_user=1000), {"uid": "1000"}),
        ({}, SecurityContext(run_as_user=1000, fs_group=2000), {"uid": "1000", "gid": "2000", "umask": "0002"}),
        ({"uid": 0, "gid": 5}, SecurityContext(run_as_user=1000, fs_group=2000), {"uid": "0", "gid": "5"}),
        ({"umask": "0077"}, SecurityContext(fs_group=2000), {"gid": "2000", "umask": "0077"}),
    ],
)
def test_the_owner_is_the_claims_word_or_else_the_pods(
    asked: dict[str, object], runs_as: SecurityContext, expected: dict[str, str]
) -> None:
    attachment = only(attachments(pod(security=runs_as), [claim(**asked)], CLASSES))  # type: ignore[arg-type]
    parameters = wanted_mount(attachment, CLASSES["s3-sample"]).parameters
    assert {k: v for k, v in parameters.items() if k in ("uid", "gid", "umask")} == expected


def test_a_container_that_says_who_it_runs_as_is_heard() -> None:
    runner = pod(container_security=SecurityContext(run_as_user=1000))
    assert wanted_mount(only(attachments(runner, [claim()], CLASSES)), CLASSES["s3-sample"]).parameters["uid"] == "1000"


def test_a_mount_waits_until_an_earlier_one_at_its_path_is_gone() -> None:
    report = MountReport(
        claim_uid="uid-gone", pod_uid="uid-web-1", path="uid-web-1/data/sub", spec_hash="x", phase=Phase.UNMOUNTING
    )
    mine = attachments(pod(), [claim()], CLASSES)
    assert wanted_mounts(mine, CLASSES, [report]) == ()
    assert len(wanted_mounts(mine, CLASSES, [])) == 1


def test_more_mounts_than_an_annotation_holds_are_refused_youngest_first() -> None:
    claims = [
        claim(f"c{i:04}", mountpoint=f"/{'x' * 200}{i:04}", created=f"2026-01-01T{i // 60:02}:{i % 60:02}:00Z") for i in range(300)
    ]
    wanted = wanted_mounts(attachments(pod(), claims, CLASSES), CLASSES, [])
    assert 0 < len(wanted) < 300
    assert [w.claim_uid for w in wanted] == [f"uid-c{i:04}" for i in range(len(wanted))]
    assert sum(len(w.path) for w in wanted) < names.ANNOTATION_LIMIT


def test_a_name_that_begins_like_another_is_not_below_it() -> None:
    found = attachments(pod(), [claim("a"), claim("b", mountpoint="/database")], CLASSES)
    assert [a.refusal for a in found] == [None, None]
