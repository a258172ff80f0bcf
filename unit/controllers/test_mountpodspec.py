"""What a mount pod is made of, as far as it depends on its class."""

from __future__ import annotations

from typing import Any

import pytest

from dynvol.api.identity import Workload
from dynvol.controllers.mountpodspec import Installation, mount_pod

from .objects import provider_class


def spec(provider: str) -> dict[str, Any]:
    made = mount_pod(
        Workload.of(node="n", namespace="test", provider_class="c", policy="independent", pod_uid="u"),
        provider_class=provider_class("c", provider=provider),
        wanted=(),
        installation=Installation(namespace="dynvol-system", image="dynvol", state_dir="/var/lib/dynamic"),
        node=None,
        credentials="",
    )
    found: dict[str, Any] = made["spec"]
    return found


def test_what_the_kernel_serves_does_not_lose_its_network_with_a_mount_pod() -> None:
    assert (spec("nfs")["hostNetwork"], spec("nfs")["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


@pytest.mark.parametrize("provider", ["s3", "rclone"])
def test_all_others_stay_in_a_network_of_their_own(provider: str) -> None:
    assert not {"hostNetwork", "dnsPolicy"} & spec(provider).keys()
