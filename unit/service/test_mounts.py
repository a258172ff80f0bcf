"""What is decided about mounts without anything being mounted."""

from __future__ import annotations

import pytest

from dynvol.api.mounts import MountReport, Phase
from dynvol.service import words
from dynvol.service.mounts import has_failed


@pytest.mark.parametrize(
    ("phase", "reason", "failed"),
    [
        (Phase.PENDING, "", False),
        (Phase.MOUNTING, "", False),
        (Phase.MOUNTING, "Changing", False),
        (Phase.MOUNTING, "EndpointUnreachable", True),
        (Phase.MOUNTED, "", False),
        (Phase.FAILED, "NoSuchBucket", True),
        (Phase.FAILED, "OfAProviderFromOutside", True),
        (Phase.CONFLICT, "MountpointTaken", True),
    ],
)
def test_a_call_waits_as_long_as_there_is_hope(phase: Phase, reason: str, failed: bool) -> None:
    assert has_failed(MountReport(claim_uid="c", pod_uid="", path="p", spec_hash="1", phase=phase, reason=reason)) is failed


@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        (
            "the class's Secret has no value for `x`; add it to the Secret",
            "the set of credentials has no value for `x`; add it to the set",
        ),
        ("create it, or correct the claim", "create it, or correct the request"),
        ("The mount pod keeps it; look at the limits of the class", "The service keeps it; look at the limits of the service"),
        ("the classic claims of the classes", "the classic claims of the classes"),
    ],
)
def test_nothing_is_said_of_claims_classes_and_mount_pods_where_there_are_none(theirs: str, own: str) -> None:
    assert words.own(theirs) == own
