from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, DynamicVolumeClaim, LabelSelector, LabelSelectorRequirement, PVCConfig, S3Config
from dynvol.api.meta import ObjectMeta
from dynvol.api.providerclass import ClassSpec, StorageProviderClass
from dynvol.webhook.rules.claims import review_claim
from dynvol.webhook.rules.verdict import Verdict

S3 = StorageProviderClass(metadata=ObjectMeta(name="s3-sample"), spec=ClassSpec(provider="s3"))
NFS = StorageProviderClass(metadata=ObjectMeta(name="nfs"), spec=ClassSpec(provider="nfs"))
CLASSES = {"s3-sample": S3, "nfs": NFS}
PINS = {names.ALLOWED_BUCKETS_PARAMETER: "public"}


def spec(mountpoint: str = "/data", *, labels: dict[str, str] | None = None, **given: Any) -> ClaimSpec:
    config = given.pop("s3_config", S3Config(bucket="my-bucket", endpoint="https://play.min.io"))
    return ClaimSpec(mountpoint=mountpoint, selector=LabelSelector(match_labels=labels or {}), s3_config=config, **given)


def claim(name: str, claim_spec: ClaimSpec, *, deleting: bool = False) -> DynamicVolumeClaim:
    deletion = "2026-01-01T00:00:00Z" if deleting else None
    return DynamicVolumeClaim(metadata=ObjectMeta(name=name, namespace="ns", deletion_timestamp=deletion), spec=claim_spec)


def review(given: ClaimSpec, *neighbours: DynamicVolumeClaim, classes: dict[str, StorageProviderClass] | None = None) -> Verdict:
    return review_claim(given, name="me", namespace="ns", neighbours=neighbours, classes=CLASSES if classes is None else classes)


def test_a_good_claim_passes_without_a_word() -> None:
    assert review(spec(storage_provider="s3", storage_provider_class="s3-sample", uid=1000, umask="0022")) == Verdict()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (S3Config(bucket="My_Bucket"), "is no bucket name"),
        (S3Config(bucket="b,allow_root"), "is no bucket name"),
        (S3Config(bucket="my-bucket", endpoint="http://u:p@host"), "endpoint"),
        (S3Config(bucket="my-bucket", endpoint="https://host:99999"), "endpoint"),
        (S3Config(bucket="my-bucket", prefix="a/../b"), "prefix"),
        (S3Config(bucket="my-bucket", region="eu west"), "region"),
    ],
)
def test_what_the_provider_could_not_mount_is_denied(config: S3Config, said: str) -> None:
    verdict = review(spec(s3_config=config))
    assert not verdict.allowed
    assert said in verdict.problems[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"uid": 1000}, "spec.uid"),
        ({"umask": "0022"}, "spec.umask"),
        ({"mount_options": "a=b"}, "spec.mountOptions"),
        ({"pvc_config": PVCConfig(claim_name="disk", sub_path="a/../b")}, "spec.pvcConfig.subPath"),
        ({"pvc_config": PVCConfig(claim_name="Disk")}, "spec.pvcConfig.claimName"),
    ],
)
def test_what_a_volume_cannot_have_is_denied(changed: dict[str, Any], said: str) -> None:
    """Its group it can."""
    classes = {"volumes": StorageProviderClass(metadata=ObjectMeta(name="volumes"), spec=ClassSpec(provider="pvc"))}
    good: dict[str, Any] = {"s3_config": None, "pvc_config": PVCConfig(claim_name="disk", sub_path="users/alice"), "gid": 1000}
    assert review(spec(**good), classes=classes) == Verdict()
    (problem,) = review(spec(**{**good, **changed}), classes=classes).problems
    assert said in problem


def test_an_unknown_provider_is_denied_by_name() -> None:
    assert "floppy" in review(spec(storage_provider="floppy")).problems[0]


def test_a_class_of_another_provider_is_denied() -> None:
    assert "is of provider nfs, but the claim is for s3" in review(spec(storage_provider_class="nfs")).problems[0]


def test_a_class_that_does_not_exist_is_warned_of_since_manifests_come_in_any_order() -> None:
    verdict = review(spec(storage_provider_class="later"))
    assert verdict.allowed
    assert verdict.warnings == ("StorageProviderClass later does not exist; nothing is mounted until it does",)


def test_that_no_class_could_serve_it_is_warned_of() -> None:
    assert "no StorageProviderClass of provider s3" in review(spec(), classes={}).warnings[0]


PINNED = {"s3-sample": StorageProviderClass(metadata=S3.metadata, spec=msgspec.structs.replace(S3.spec, parameters=PINS))}


def test_a_claim_that_the_class_it_names_does_not_allow_is_denied() -> None:
    (problem,) = review(spec(storage_provider_class="s3-sample"), classes=PINNED).problems
    assert problem.startswith("spec.storageProviderClass: s3-sample does not allow the bucket 'my-bucket'")
    assert review(spec(storage_provider_class="s3-sample", s3_config=S3Config(bucket="public")), classes=PINNED) == Verdict()


def test_a_claim_that_no_class_allows_is_warned_of_since_another_class_may_come() -> None:
    verdict = review(spec(), classes=PINNED)
    assert verdict.allowed
    assert verdict.warnings[0].startswith("no StorageProviderClass of provider s3 allows this claim; s3-sample does not allow")
    assert review(spec(), classes={**PINNED, "open": S3}) == Verdict()


@pytest.mark.parametrize("key", ["a b", "/x", "a/b/c", "-a", "x" * 64])
def test_a_selector_that_no_label_can_match_is_denied(key: str) -> None:
    assert "cannot be a label's key" in review(spec(labels={key: "v"})).problems[0]
    requirement = LabelSelectorRequirement(key=key, operator="Exists")
    selector = LabelSelector(match_expressions=(requirement,))
    by_expression = ClaimSpec(mountpoint="/data", selector=selector, s3_config=S3Config(bucket="my-bucket"))
    assert "cannot be a label's key" in review(by_expression).problems[0]


@pytest.mark.parametrize("other", ["/data", "/data/sub", "/data/sub/sub"])
def test_an_overlapping_mountpoint_is_warned_of_and_names_the_other_claim(other: str) -> None:
    verdict = review(spec("/data"), claim("older", spec(other)))
    assert verdict.allowed
    assert "claim older" in verdict.warnings[0]


@pytest.mark.parametrize(
    "other",
    [
        claim("beside", spec("/database")),
        claim("elsewhere", spec("/data", storage_provider_class="another")),
        claim("leaving", spec("/data"), deleting=True),
        claim("me", spec("/data")),
        claim("for-others", spec("/data", labels={"app": "b"})),
    ],
    ids=lambda c: str(c.metadata.name),
)
def test_a_claim_that_cannot_get_in_the_way_is_not_mentioned(other: DynamicVolumeClaim) -> None:
    assert review(spec("/data", labels={"app": "a"}, storage_provider_class="s3-sample"), other).warnings == ()


def test_many_overlaps_are_summed_up_since_warnings_are_cut_off() -> None:
    verdict = review(spec(), *(claim(f"c{n}", spec()) for n in range(10)))
    assert len(verdict.warnings) == 4
    assert "7 more claims" in verdict.warnings[-1]
    assert all(len(w) < 250 for w in review(spec("/" + "x" * 1000), claim("n" * 60, spec("/" + "x" * 1000))).warnings)
