"""The client rclone, for buckets.

It serves a bucket that does not exist as an empty directory, so the storage is checked before each start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..contract import Command, Finding, Place
from ..options import Check, integer, one_of, size, switch
from ..rclone import program
from .kind import BucketClient, Kind

ALLOWED_OPTIONS: Final[Mapping[str, Check]] = {
    **program.ALLOWED_OPTIONS,
    "s3-acl": one_of(
        "private", "public-read", "public-read-write", "authenticated-read", "bucket-owner-read", "bucket-owner-full-control"
    ),
    "s3-chunk-size": size,
    "s3-disable-checksum": switch,
    "s3-storage-class": one_of(
        "STANDARD", "STANDARD_IA", "ONEZONE_IA", "REDUCED_REDUNDANCY", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE"
    ),
    "s3-upload-concurrency": integer(1, 32),
    "s3-upload-cutoff": size,
}
_CLAIM_OPTIONS: Final = program.CLAIM_OPTIONS | {"s3-storage-class"}
_OF_THE_STORAGE: Final = "s3-"
"""These options go into the file: as flags they would count in the name of the cache, so that a client with others, one that has
less memory say, would find nothing of what an earlier one has left."""


class Rclone(BucketClient):
    def command(self, place: Place) -> Command:
        small = place.memory is not None and place.memory < program.SMALL
        chosen = {**({"s3-upload-concurrency": "1"} if small else {}), **self._options}
        return program.mount(
            f"{self._bucket.name}/{self._bucket.prefix}".rstrip("/"),
            place,
            configuration=[*self._configuration(), *_lines(chosen)],
            owner=self._owner,
            read_only=self._read_only,
            options={name: value for name, value in chosen.items() if not name.startswith(_OF_THE_STORAGE)},
            ca_file=self._credentials.ca_file,
        )

    def explain(self, output: str) -> Finding | None:
        return program.explain(output)

    def _configuration(self) -> list[str]:
        given, bucket = self._credentials, self._bucket
        lines = [
            "type = s3",
            f"provider = {'Other' if bucket.endpoint else 'AWS'}",
            # Without a key, requests are not signed.
            *(() if self._anonymous else (f"access_key_id = {given.access_key}", f"secret_access_key = {given.secret_key}")),
            f"region = {bucket.region}",
            f"force_path_style = {'true' if bucket.path_style else 'false'}",
            # It would try to make a bucket that is missing.
            "no_check_bucket = true",
        ]
        if bucket.endpoint:
            lines.append(f"endpoint = {bucket.endpoint}")
        if given.session_token:
            lines.append(f"session_token = {given.session_token}")
        return lines


def _lines(options: Mapping[str, str]) -> list[str]:
    """The storage's options as the configuration file has them. A switch has no value."""
    named = {name.removeprefix(_OF_THE_STORAGE): value for name, value in options.items() if name.startswith(_OF_THE_STORAGE)}
    return [f"{name.replace('-', '_')} = {value or 'true'}" for name, value in named.items()]


KIND: Final = Kind(ALLOWED_OPTIONS, _CLAIM_OPTIONS, Rclone)
