"""Whose a cache is, when nobody is left to say."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from dynvol.api import names
from dynvol.api.identity import Workload
from dynvol.api.mounts import WantedMount
from dynvol.controllers.leftovers import Leftovers
from dynvol.mount.caches import Leftover


@pytest.mark.parametrize("policy", [names.INDEPENDENT, names.SHARED])
def test_whose_data_it_is_follows_from_where_it_lies(policy: str) -> None:
    whose = Workload.of(node="n", namespace="apps", provider_class="c", policy=policy, pod_uid="pod")
    mount = WantedMount(claim="apps/data", claim_uid="u", pod_uid="pod", path="pod/data", provider="s3", spec_hash="1")
    left = Leftovers(PurePosixPath(str(whose.cache("/state"))), (Leftover(mount, 1),))
    assert left.workload("n") == whose
    assert left.workload("other") is None
    assert (left.of(claim_uid="u", pod_uid="pod"), left.of(claim_uid="u", pod_uid="other")) == (1, 0)
