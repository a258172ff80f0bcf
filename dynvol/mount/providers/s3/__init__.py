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
from .kind import Kind

DEFAULT_MOUNTER = "s3fs"
MOUNTERS = ("s3fs", "rclone", "geesefs", "mount-s3")


_KNOWN: Final = frozenset(
    (
        "bucket",
        "endpoint",
        "prefix",
        "region",
        "pathStyle",
        "uid",
        "gid",
        "umask",
        "mounter",
        "options",
        "claimOptions",
        "anonymous",
    )
)


class S3:
    secret_keys: Final = (names.ACCESS_KEY, names.SECRET_KEY)
    optional_keys: Final = (names.SESSION_TOKEN, names.CA_CERTIFICATE)
    serves_anyone: Final = True
    sends_secrets: Final = False
    in_kernel: Final = False

    def validate(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        return (
            *options.unknown(parameters, known=_KNOWN),
            *bucket.problems(parameters),
            *owner.problems(parameters),
            *options.anonymity_problems(parameters),
            *_claim_problems(parameters),
            *self.validate_class(parameters),
        )

    def validate_class(self, parameters: Mapping[str, str]) -> tuple[str, ...]:
        mounter = _mounter(parameters)
        if (kind := _kind(mounter)) is None:
            return (f'there is no mounter "{mounter[:64]}" for s3; choose one of: {", ".join(MOUNTERS)}',)
        return tuple(options.problems(parameters.get("options", ""), allowed=kind.options, client=mounter))

    def target(self, parameters: Mapping[str, str]) -> Target:
        return Target(endpoint=bucket.url(parameters), bucket=parameters.get("bucket", ""))

    def unflushed(self, parameters: Mapping[str, str], *, cache: str) -> int:
        """All but rclone upload within close(2); what they have on disk has no name, and goes with them."""
        if parameters.get("mounter") != "rclone":
            return 0
        from ..rclone import program

        return program.unflushed(cache)

    def client(self, parameters: Mapping[str, str], *, read_only: bool, credentials: Credentials) -> Client:
        if found := self.validate(parameters):
            raise Unusable(Finding("InvalidParameters", "; ".join(found)))
        if parameters.get("anonymous"):
            credentials = Credentials()
        else:
            _refuse_unusable(credentials)
        kind = _kind(_mounter(parameters))
        assert kind is not None  # says `validate`
        return kind.make(
            bucket.Bucket.of(parameters),
            credentials,
            owner=Owner.of(parameters),
            read_only=read_only,
            options=options.chosen(parameters),
        )


def _mounter(parameters: Mapping[str, str]) -> str:
    return parameters.get("mounter") or DEFAULT_MOUNTER


def _kind(mounter: str) -> Kind | None:
    """Imported when first asked for."""
    match mounter:
        case "s3fs":
            from .s3fs import KIND
        case "rclone":
            from .rclone import KIND
        case "geesefs":
            from .geesefs import KIND
        case "mount-s3":
            from .mount_s3 import KIND
        case _:
            return None
    return KIND


def _claim_problems(parameters: Mapping[str, str]) -> list[str]:
    mounter = _mounter(parameters)
    if (kind := _kind(mounter)) is None:
        return []
    given = parameters.get("claimOptions", "")
    return options.claim_problems(given, allowed=kind.options, claim_options=kind.claim_options, client=mounter)


def _refuse_unusable(given: Credentials) -> None:
    if finding := credentials.finding(given):
        raise Unusable(finding)
