"""The client rclone (1.60 and later).

It serves a bucket that does not exist as an empty directory, so the storage is checked before each start. With its cache of
writes it uploads after close(2), and when it is unmounted it ends with what is queued still on disk, marked `Dirty` in the
cache's metadata; the next start with the same cache goes on uploading. `unflushed` counts these marks: no port, no password,
and it works after the program has died too.

Everything about the storage goes into the configuration file; the remote on the command line is `s3:bucket/prefix`, in which
all after the colon is taken as it stands.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from ..contract import Answer, Command, Credentials, Finding, Place, Request, Silence
from ..options import Check, duration, integer, one_of, size, switch
from . import check
from .bucket import Bucket

_MIB: Final = 1 << 20
_REMOTE: Final = "s3"

ALLOWED_OPTIONS: Final[Mapping[str, Check]] = {
    "attr-timeout": duration,
    "buffer-size": size,
    "checkers": integer(1, 64),
    "contimeout": duration,
    "dir-cache-time": duration,
    "low-level-retries": integer(1, 30),
    "max-read-ahead": size,
    "no-checksum": switch,
    "no-modtime": switch,
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
    "timeout": duration,
    "transfers": integer(1, 32),
    "use-server-modtime": switch,
    "vfs-cache-max-age": duration,
    "vfs-cache-max-size": size,
    "vfs-cache-mode": one_of("off", "minimal", "writes", "full"),
    "vfs-fast-fingerprint": switch,
    "vfs-read-ahead": size,
    "vfs-read-chunk-size": size,
    "vfs-read-chunk-size-limit": size,
}


class Rclone:
    checks_storage: Final = False

    def __init__(self, bucket: Bucket, credentials: Credentials, *, read_only: bool, options: Mapping[str, str]) -> None:
        self._bucket = bucket
        self._credentials = credentials
        self._read_only = read_only
        self._options = options

    def command(self, place: Place) -> Command:
        options = {**self._defaults(place.memory_limit), **self._options, **self._fixed(place)}
        return Command(
            argv=(
                "rclone",
                "mount",
                f"{_REMOTE}:{self._bucket.name}/{self._bucket.prefix}".rstrip("/"),
                place.mountpoint,
                *(f"--{name}={value}" if value else f"--{name}" for name, value in options.items()),
            ),
            environment=_environment(place),
            files={"rclone.conf": self._configuration()},
        )

    def check(self, *, now: float) -> Request | None:
        return check.request(self._bucket, self._credentials, now=now)

    def judge(self, answer: Answer | Silence) -> Finding | None:
        return check.judge(answer, self._bucket)

    def explain(self, output: str) -> Finding | None:
        return explain(output)

    def unflushed(self, place: Place) -> int:
        return sum(_is_dirty(path) for path in _files_below(os.path.join(place.cache, "vfsMeta")))

    def _defaults(self, memory_limit: int | None) -> dict[str, str]:
        """What users may change. Server times and no checksums made a listing of 2,000 keys 45 times as fast."""
        small = memory_limit is not None and memory_limit < 256 * _MIB
        return {
            "vfs-cache-mode": "writes",
            "dir-cache-time": "60s",
            "contimeout": "10s",
            "use-server-modtime": "",
            "no-checksum": "",
            **({"buffer-size": "1Mi", "transfers": "2", "s3-upload-concurrency": "1"} if small else {}),
        }

    def _fixed(self, place: Place) -> dict[str, str]:
        """What is not the user's to change."""
        ca = self._credentials.ca_file
        return {
            "config": f"{place.secrets}/rclone.conf",
            "cache-dir": place.cache,
            "devname": place.source,
            # An upload begins when the file is closed, not five seconds later.
            "vfs-write-back": "0s",
            "allow-other": "",
            # Without it neither the kernel nor rclone looks at owner and mode.
            "default-permissions": "",
            "uid": str(self._bucket.uid),
            "gid": str(self._bucket.gid),
            # rclone reads the number as Go does: octal if it begins with 0.
            "umask": self._bucket.umask,
            **({"read-only": ""} if self._read_only else {}),
            **({"ca-cert": ca} if ca else {}),
        }

    def _configuration(self) -> bytes:
        given, bucket = self._credentials, self._bucket
        lines = [
            f"[{_REMOTE}]",
            "type = s3",
            f"provider = {'Other' if bucket.endpoint else 'AWS'}",
            f"access_key_id = {given.access_key}",
            f"secret_access_key = {given.secret_key}",
            f"region = {bucket.region}",
            f"force_path_style = {'true' if bucket.path_style else 'false'}",
            # It would try to make a bucket that is missing.
            "no_check_bucket = true",
        ]
        if bucket.endpoint:
            lines.append(f"endpoint = {bucket.endpoint}")
        if given.session_token:
            lines.append(f"session_token = {given.session_token}")
        return "\n".join((*lines, "")).encode()


def _environment(place: Place) -> dict[str, str]:
    """The Go runtime collects garbage harder as it nears GOMEMLIMIT; it gets what the mounter leaves of the limit."""
    base = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": place.secrets}
    if place.memory_limit is None:
        return base
    return {**base, "GOMEMLIMIT": str(max(16 * _MIB, (place.memory_limit - 24 * _MIB) * 3 // 4))}


def _files_below(directory: str) -> Iterator[str]:
    for parent, _, files in os.walk(directory):
        yield from (os.path.join(parent, name) for name in files)


def _is_dirty(path: str) -> bool:
    """Metadata that cannot be read counts as dirty: keeping too much loses nothing. A file that went is one that is done."""
    try:
        with open(path, "rb") as file:
            return bool(json.load(file).get("Dirty", False))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError):
        return True


_LAST_WORDS: Final = (
    (
        re.compile(r"fusermount.*not found|fuse device not found|/dev/fuse"),
        "FuseUnavailable",
        "FUSE does not work on this node; load the module `fuse`",
    ),
    (re.compile(r"unknown (shorthand )?flag: \S+"), "ClientTooOld", "this rclone does not know an option that is set: {found}"),
)


def explain(output: str) -> Finding | None:
    for pattern, reason, message in _LAST_WORDS:
        if match := pattern.search(output):
            return Finding(reason, message.format(found=match[0]))
    return None
