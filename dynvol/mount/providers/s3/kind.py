"""What FUSE clients for buckets have in common, and what each says of itself, as `KIND` of its module; the mounter imports no more
than the one it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from ..contract import Answer, Client, Credentials, Finding, Place, Request, Silence
from ..options import Check
from ..owner import Owner
from . import check
from .bucket import Bucket


class BucketClient:
    """All of `contract.Client` but for the command. Unless it says otherwise, a client serves a bucket that is not there, and
    has no last words that are known."""

    checks_storage = False

    def __init__(
        self, bucket: Bucket, credentials: Credentials, *, owner: Owner, read_only: bool, options: Mapping[str, str]
    ) -> None:
        self._bucket = bucket
        self._credentials = credentials
        self._anonymous = not credentials.access_key
        self._owner = owner
        self._read_only = read_only
        self._options = options

    def check(self, place: Place, *, now: float) -> Request:
        return check.request(self._bucket, self._credentials, now=now)

    def judge(self, answer: Answer | Silence) -> Finding | None:
        return check.judge(answer, self._bucket, self._credentials)

    def explain(self, output: str) -> Finding | None:
        return None


class Maker(Protocol):
    def __call__(
        self, bucket: Bucket, credentials: Credentials, *, owner: Owner, read_only: bool, options: Mapping[str, str]
    ) -> Client:
        """Without an access key requests are not to be signed. Raises `Unusable` for credentials that this client has no safe place
        for."""


class Kind(msgspec.Struct, frozen=True):
    options: Mapping[str, Check]
    """What a class may set."""
    claim_options: frozenset[str]
    """Those among them that a claim may set too: they are about the speed and freshness of its own mount, and cost no one else."""
    make: Maker
