"""What classes allow. A table of spellings, because what slips through here reaches somebody else's storage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.claim import ClaimSpec, LabelSelector, RcloneConfig, S3Config, SecretReference
from dynvol.api.providerclass import ClassSpec
from dynvol.mount import providers
from dynvol.mount.providers import pins

OUTSIDE = Path(__file__).parents[2] / "mounter" / "outside"


def of_class(**parameters: str) -> ClassSpec:
    return ClassSpec(provider="s3", parameters={f"{names.GROUP}/allowed-{key}": value for key, value in parameters.items()})


def claim(*, endpoint: str = "https://s3.example.com", bucket: str = "team-a-data", region: str = "") -> ClaimSpec:
    config = S3Config(bucket=bucket, endpoint=endpoint, region=region)
    return ClaimSpec(mountpoint="/data", selector=LabelSelector(), s3_config=config)


def allowed(pinned: ClassSpec, spec: ClaimSpec | None = None, *, namespace: str = "team-a") -> bool:
    return not pins.refusal(pinned, spec or claim(), namespace=namespace)


def test_a_class_without_pins_allows_all() -> None:
    assert allowed(of_class())


def test_a_provider_that_sends_secrets_as_they_are_sends_them_nowhere_without_a_pin() -> None:
    """Else a claim could have the class's Secret delivered to a server of its author's."""
    config = RcloneConfig(
        type="webdav", parameters={"url": "https://evil.example"}, secret_keys={"bearer_token": "secret-access-key"}
    )
    spec = ClaimSpec(mountpoint="/data", selector=LabelSelector(), rclone_config=config)
    for pinned in (of_class(), of_class(endpoints=""), of_class(buckets="*"), of_class(endpoints="https://dav.example")):
        assert not allowed(msgspec.structs.replace(pinned, provider="rclone"), spec)
    assert allowed(msgspec.structs.replace(of_class(endpoints="https://evil.example"), provider="rclone"), spec)


@pytest.mark.parametrize(
    ("listed", "endpoint"),
    [
        ("https://s3.example.com", "https://s3.example.com"),
        ("https://s3.example.com", "HTTPS://S3.Example.COM/"),
        ("https://s3.example.com/", "https://s3.example.com:443"),
        ("https://s3.example.com:443", "https://s3.example.com"),
        ("http://s3.example.com", "http://s3.example.com:80"),
        ("http://other, https://s3.example.com", "https://s3.example.com"),
        ("https://*.example.com", "https://s3.example.com"),
        ("https://s3-*.example.com:9000", "https://s3-eu.example.com:9000"),
        ("https://[2001:db8::1]", "https://[2001:DB8:0:0::1]:443"),
        ("https://s3.eu-central-1.amazonaws.com", ""),
    ],
)
def test_an_endpoint_is_allowed_however_it_is_spelt(listed: str, endpoint: str) -> None:
    assert allowed(of_class(endpoints=listed), claim(endpoint=endpoint, region="eu-central-1"))


@pytest.mark.parametrize(
    ("listed", "endpoint"),
    [
        ("https://s3.example.com", "http://s3.example.com"),
        ("https://s3.example.com", "https://s3.example.com:8443"),
        ("https://s3.example.com", "https://s3.example.com.evil.example"),
        ("https://s3.example.com", "https://evil-s3.example.com"),
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://a.b.example.com"),
        ("https://*.example.com", "https://s3.example.com.evil.example"),
        ("https://*.example.com", "https://sXexample.com"),
        ("https://s3*", "https://s3.evil.example"),
        ("https://s3.example.com", "https://s3.example.com@169.254.169.254"),
        ("https://*", "https://a,b"),
        ("http://127.0.0.1", "http://2130706433"),
        ("http://127.0.0.1", "http://[::1]"),
        ("http://127.0.0.1", "http://[::ffff:127.0.0.1]"),
        ("https://s3.eu-central-1.amazonaws.com", ""),
        ("https://s3.example.com", ""),
        ("", "https://s3.example.com"),
        ("s3.example.com", "https://s3.example.com"),
        ("https://[zz]", "https://[zz]"),
    ],
)
def test_any_other_endpoint_is_not(listed: str, endpoint: str) -> None:
    assert not allowed(of_class(endpoints=listed), claim(endpoint=endpoint))


@pytest.mark.parametrize(
    ("listed", "bucket", "good"),
    [
        ("team-a-data", "team-a-data", True),
        ("team-a-*", "team-a-data", True),
        ("team-a-*", "team-b-data", False),
        ("team-a-*", "x-team-a-data", False),
        ("*-public,shared", "shared", True),
        ("*", "any.bucket", True),
        ("team-a", "team-a-data", False),
        ("team.a", "team-a", False),
        ("[a-z]*", "team-a", False),
        ("team-?", "team-a", False),
        ("", "team-a", False),
        ("*", "", False),
    ],
)
def test_buckets_are_compared_by_name_and_star_only(listed: str, bucket: str, good: bool) -> None:
    assert allowed(of_class(buckets=listed), claim(bucket=bucket)) is good


@pytest.mark.parametrize(
    ("listed", "good"), [("team-a", True), ("team-b, team-a", True), ("team-*", True), ("team", False), ("", False)]
)
def test_namespaces_are_for_pods_and_claims_alike(listed: str, good: bool) -> None:
    pinned = of_class(namespaces=listed)
    assert allowed(pinned) is good
    assert (pins.namespace_refusal(pinned, "team-a") == "") is good


def test_every_pin_must_allow() -> None:
    pinned = of_class(namespaces="team-a", endpoints="https://s3.example.com", buckets="team-a-*")
    assert allowed(pinned)
    assert not allowed(pinned, namespace="team-b")
    assert not allowed(pinned, claim(endpoint="https://other.example.com"))
    assert not allowed(pinned, claim(bucket="team-b-data"))


def test_the_refusal_names_what_was_asked_and_what_is_allowed() -> None:
    why = pins.refusal(of_class(buckets="team-b-*"), claim(), namespace="team-a")
    assert why == "does not allow the bucket 'team-a-data'; its parameter allowed-buckets has 'team-b-*'"
    assert len(pins.refusal(of_class(buckets="b," * 2000), claim(bucket="x" * 4000), namespace="team-a")) < 512


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"namespaces": "Team_A"}, "the name of a namespace"),
        ({"namespaces": "a,,b"}, "the name of a namespace"),
        ({"endpoints": "s3.example.com"}, "scheme://host"),
        ({"endpoints": "https://s3.example.com/path"}, "scheme://host"),
        ({"endpoints": "https://user@host"}, "scheme://host"),
        ({"buckets": "a/b"}, "the name of a bucket"),
        ({"buckets": ""}, "the name of a bucket"),
    ],
)
def test_a_pin_that_cannot_be_read_is_told(given: dict[str, str], said: str) -> None:
    (problem,) = pins.problems(of_class(**given).parameters)
    assert said in problem


def test_good_pins_are_no_problem() -> None:
    pinned = of_class(namespaces="team-*,ops", endpoints="https://*.example.com, http://minio:9000", buckets="*")
    assert not [*pins.problems(pinned.parameters)]


def test_a_pattern_of_many_stars_is_no_trap() -> None:
    pinned = of_class(buckets="*a" * 120 + "b")
    assert not allowed(pinned, claim(bucket="a" * 63))


def naming(secret: str, provider: str = "") -> ClaimSpec:
    """With a Secret of its own."""
    return msgspec.structs.replace(claim(), credentials_secret_ref=SecretReference(name=secret), storage_provider=provider)


def test_a_claim_names_a_secret_of_its_own_only_where_the_class_lets_it() -> None:
    assert not allowed(of_class(), naming("mine"))
    assert "does not let claims name Secrets" in pins.refusal(of_class(), naming("mine"), namespace="team-a")
    assert not allowed(of_class(**{"claim-secrets": ""}), naming("mine"))
    assert allowed(of_class(**{"claim-secrets": "*"}), naming("mine"))
    assert allowed(of_class(**{"claim-secrets": "s3-*, mine"}), naming("mine"))
    assert not allowed(of_class(**{"claim-secrets": "s3-*"}), naming("mine"))
    assert allowed(of_class(), claim())


def test_what_else_a_class_allows_binds_claims_with_a_secret_of_their_own_too() -> None:
    assert not allowed(of_class(**{"claim-secrets": "*", "buckets": "other"}), naming("mine"))


def test_a_secret_for_storage_that_takes_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OUTSIDE)
    providers.forget()
    assert "uses no credentials" in pins.refusal(of_class(**{"claim-secrets": "*"}), naming("mine", "memory"), namespace="team-a")
