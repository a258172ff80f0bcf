"""Buckets of S3 and of whatever speaks its protocol, through a FUSE client.

`s3fs` is the default: 16 MiB resident, of which 3 MiB are its own, against 45 and 11 MiB of an idle `rclone` (and over 60 after
one upload). Only s3fs and the mounter together fit the 50Mi of the sample class. rclone caches whole files on disk, and is the
better choice for random writes into large files where the class grants 128Mi or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dynvol.api import names

from .. import options, owner
from ..contract import Client, Credentials, Finding, Target, Unusable
from ..owner import Owner
from . import bucket, credentials

DEFAULT_MOUNTER = "s3fs"
MOUNTERS = ("s3fs", "rclone")


_KNOWN = frozenset(("bucket", "endpoint", "prefix", "region", "pathStyle", "uid", "gid", "umask", "mounter", "options"))


class S3:
    secret_keys: Final = (names.ACCESS_KEY, names.SECRET_KEY)
    optional_keys: Final = (names.SESSION_TOKEN, names.CA_CERTIFICATE)
    sends_secrets: Final = False

    def validate(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        return (
            *options.unknown(parameters, known=_KNOWN),
            *bucket.problems(parameters),
            *owner.problems(parameters),
            *self.validate_class(parameters),
        )

    def validate_class(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        mounter = parameters.get("mounter") or DEFAULT_MOUNTER
        if mounter not in MOUNTERS:
            return (f'there is no mounter "{mounter[:64]}" for s3; choose one of: {", ".join(MOUNTERS)}',)
        if mounter == "rclone":
            from .rclone import ALLOWED_OPTIONS as allowed
        else:
            from .s3fs import ALLOWED_OPTIONS as allowed
        return tuple(options.problems(parameters.get("options", ""), allowed=allowed, client=mounter))

    def target(self, parameters: Mapping[str, str]) -> Target:
        return Target(endpoint=bucket.url(parameters), bucket=parameters.get("bucket", ""))

    def client(self, parameters: Mapping[str, str], *, read_only: bool, credentials: Credentials) -> Client:
        if found := self.validate(parameters):
            raise Unusable(Finding("InvalidParameters", "; ".join(found)))
        _refuse_unusable(credentials)
        where = bucket.Bucket.of(parameters)
        chosen = options.parse(parameters.get("options", ""))
        if parameters.get("mounter") == "rclone":
            from .rclone import Rclone

            return Rclone(where, credentials, owner=Owner.of(parameters), read_only=read_only, options=chosen)
        from .s3fs import S3fs

        return S3fs(where, credentials, owner=Owner.of(parameters), read_only=read_only, options=chosen)


def _refuse_unusable(given: Credentials) -> None:
    if finding := credentials.finding(given):
        raise Unusable(finding)
