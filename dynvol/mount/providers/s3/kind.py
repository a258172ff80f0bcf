"""What each FUSE client for buckets says of itself, as `KIND` of its module; the mounter imports no more than the one it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from ..contract import Client, Credentials
from ..options import Check
from ..owner import Owner
from .bucket import Bucket


class Maker(Protocol):
    def __call__(
        self, bucket: Bucket, credentials: Credentials, *, owner: Owner, read_only: bool, options: Mapping[str, str]
    ) -> Client:
        """Raises `Unusable` for credentials that this client has no safe place for."""


class Kind(msgspec.Struct, frozen=True):
    options: Mapping[str, Check]
    """What a class may set."""
    claim_options: frozenset[str]
    """Those among them that a claim may set too: they are about the speed and freshness of its own mount, and cost no one else."""
    make: Maker
