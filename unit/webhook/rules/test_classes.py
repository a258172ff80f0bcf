from __future__ import annotations

from decimal import Decimal

import pytest

from dynvol.api import names
from dynvol.api.providerclass import ClassSpec
from dynvol.api.quantities import parse
from dynvol.webhook.rules.classes import review_class
from dynvol.webhook.rules.verdict import Verdict

GOOD = {
    names.SECRET_NAME_PARAMETER: "provider-s3-secret",
    names.SECRET_NAMESPACE_PARAMETER: "default",
    names.CPU_REQUEST_PARAMETER: "10m",
    names.MEMORY_REQUEST_PARAMETER: "50Mi",
    names.CPU_LIMIT_PARAMETER: "1",
    names.MEMORY_LIMIT_PARAMETER: "256Mi",
}


def review(**changed: str) -> Verdict:
    """The good class, with parameters (by the last part of their keys, - as _) changed; empty removes."""
    changes = {f"{names.GROUP}/{key.replace('_', '-')}": value for key, value in changed.items()}
    return review_class(ClassSpec(provider="s3", parameters={k: v for k, v in (GOOD | changes).items() if v}))


def test_a_good_class_passes_without_a_word() -> None:
    assert review() == Verdict()


def test_the_sample_class_is_allowed_and_warned_that_it_will_be_slow() -> None:
    verdict = review(mount_cpu_limit="10m", mount_memory_limit="50Mi")
    assert verdict.allowed
    assert [w for w in verdict.warnings if "mount-cpu-limit 10m" in w]
    assert not [w for w in verdict.warnings if "memory" in w]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"storage_provider_secret_name": ""}, "storage-provider-secret-name is missing"),
        ({"storage_provider_secret_namespace": ""}, "storage-provider-secret-namespace is missing"),
        ({"storage_provider_secret_name": "A_b"}, "cannot be a Secret's name"),
        ({"storage_provider_secret_namespace": "a.b"}, "cannot be a Secret's namespace"),
        ({"mount_cpu_limit": "a lot"}, "is no amount; write a number of cores"),
        ({"mount_cpu_limit": "-1"}, "is no amount"),
        ({"mount_cpu_limit": "0"}, "is no amount"),
        ({"mount_memory_limit": "50 Mi"}, "is no amount; write a number of bytes"),
        ({"mount_memory_limit": "50MB"}, "is no amount"),
        ({"mount_memory_request": "1Gi"}, "is more than"),
        ({"mount_cpu_request": "2"}, "is more than"),
        ({"mounter": "floppy"}, "floppy"),
        ({"allowed_endpoints": "s3.example.com"}, "allowed-endpoints"),
        ({"allowed_namespaces": "a,,b"}, "allowed-namespaces"),
        ({"allowed_buckets": "a/b"}, "allowed-buckets"),
        ({"mount_options": "passwd_file=/etc/shadow"}, "passwd_file"),
        ({"mount_options": "use_cache=/etc"}, "use_cache"),
        ({"mounter": "rclone", "mount_options": "config=/x"}, "config"),
    ],
)
def test_what_no_mount_pod_could_run_with_is_denied(changed: dict[str, str], said: str) -> None:
    verdict = review(**changed)
    assert not verdict.allowed
    assert said in "; ".join(verdict.problems)


def test_a_class_for_public_storage_names_no_secret() -> None:
    assert review(storage_provider_secret_name="", storage_provider_secret_namespace="") == Verdict()


def test_a_class_may_let_claims_name_secrets() -> None:
    assert review(allowed_claim_secrets="s3-*,mine") == Verdict()
    assert "must be the name of a Secret" in "; ".join(review(allowed_claim_secrets="a b").problems)


def test_every_problem_is_told_at_once() -> None:
    assert len(review(storage_provider_secret_name="", mount_cpu_limit="x", mounter="floppy").problems) == 3


def test_a_mount_pod_is_made_on_demand_or_prepared_and_nothing_else() -> None:
    assert not review(mount_pod="prepared").problems and not review(mount_pod="on-demand").problems
    (problem,) = review(mount_pod="eager").problems
    assert "neither on-demand nor prepared" in problem


def test_a_parameter_that_nobody_reads_is_warned_of() -> None:
    assert "mount-cpu-limits is not known" in review(mount_cpu_limits="1").warnings[0]


def test_memory_that_the_client_will_not_fit_into_is_warned_of() -> None:
    assert "rclone may be killed" in review(mounter="rclone", mount_memory_limit="50Mi").warnings[0]
    assert "s3fs may be killed" in review(mount_memory_request="", mount_memory_limit="20Mi").warnings[0]


def test_an_unknown_provider_is_denied() -> None:
    assert "floppy" in review_class(ClassSpec(provider="floppy")).problems[0]


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1", 1),
        ("100m", Decimal("0.1")),
        ("0.5", Decimal("0.5")),
        (".5", Decimal("0.5")),
        ("5.", 5),
        ("1k", 1000),
        ("1Ki", 1024),
        ("50Mi", 50 * 1024**2),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 10**18),
        ("2Ei", 2 * 1024**6),
        ("100n", Decimal("1e-7")),
        ("", None),
        (".", None),
        ("1K", None),
        ("1 Mi", None),
        ("-1", None),
        ("１", None),
    ],
)
def test_quantities_are_read_as_kubernetes_does(text: str, amount: Decimal | int | None) -> None:
    assert parse(text) == amount
