"""The client s3fs (1.90 and later).

It uploads a file within close(2), so nothing that was closed is ever pending; it refuses to serve a bucket that it cannot
list. Options go into one `-o` list, in which no value may hold a comma: `bucket` and `options` see to that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..contract import DISK_FULL, Command, Credentials, Finding, Place, Unusable
from ..options import Check, flag, integer, one_of
from ..owner import Owner
from .bucket import Bucket
from .kind import BucketClient, Kind

_ROOMY: Final = 174 << 20
"""Bytes. A client that is alone in a class of 256Mi has as much."""

ALLOWED_OPTIONS: Final[Mapping[str, Check]] = {
    "complement_stat": flag,
    "connect_timeout": integer(1, 600),
    "default_acl": one_of(
        "private", "public-read", "public-read-write", "authenticated-read", "bucket-owner-read", "bucket-owner-full-control"
    ),
    "enable_content_md5": flag,
    "enable_noobj_cache": flag,
    "ensure_diskfree": integer(0, 1 << 20),
    "kernel_cache": flag,
    "list_object_max_keys": integer(1000, 100_000),
    "max_dirty_data": integer(50, 1 << 20),
    "max_stat_cache_size": integer(0, 10_000_000),
    "multipart_copy_size": integer(5, 5120),
    "multipart_size": integer(5, 5120),
    "multipart_threshold": integer(5, 5120),
    "multireq_max": integer(1, 200),
    "nocopyapi": flag,
    "nomixupload": flag,
    "nomultipart": flag,
    "norenameapi": flag,
    "parallel_count": integer(1, 64),
    "readwrite_timeout": integer(1, 600),
    "retries": integer(0, 30),
    "sigv2": flag,
    "sigv4": flag,
    "stat_cache_expire": integer(0, 86_400),
    "storage_class": one_of(
        "standard", "standard_ia", "onezone_ia", "reduced_redundancy", "intelligent_tiering", "glacier", "deep_archive"
    ),
    "use_sse": one_of("", "1"),
}

_CLAIM_OPTIONS: Final = frozenset(
    {"complement_stat", "enable_noobj_cache", "kernel_cache", "parallel_count", "stat_cache_expire", "storage_class"}
)

# What s3fs takes for one remembered file (its manual: about 40 MB for 100,000).
_STAT_ENTRY: Final = 430


_NO_TOKEN: Final = (
    "s3fs has no safe place for the `session-token` of {whose}; set the class's mounter to rclone, or use a lasting key"
)


class S3fs(BucketClient):
    checks_storage = True

    def __init__(
        self, bucket: Bucket, credentials: Credentials, *, owner: Owner, read_only: bool, options: Mapping[str, str]
    ) -> None:
        if credentials.session_token:
            raise Unusable(Finding("SessionTokenUnsupported", _NO_TOKEN.format(whose=credentials.whose)))
        super().__init__(bucket, credentials, owner=owner, read_only=read_only, options=options)

    def command(self, place: Place) -> Command:
        options = {**self._defaults(place.memory), **self._options, **self._fixed(place)}
        listed = ",".join(f"{name}={value}" if value else name for name, value in options.items())
        location = f"{self._bucket.name}:/{self._bucket.prefix}" if self._bucket.prefix else self._bucket.name
        return Command(
            argv=("s3fs", location, place.mountpoint, "-f", "-o", listed),
            environment=self._environment(place),
            files={} if self._anonymous else {"passwd": self._password()},
        )

    def explain(self, output: str) -> Finding | None:
        return explain(output, self._bucket, self._credentials)

    def _password(self) -> bytes:
        return f"{self._credentials.access_key}:{self._credentials.secret_key}\n".encode()

    def _defaults(self, memory: int | None) -> dict[str, str]:
        """What users may change. A small class gets a small cache and few parallel requests."""
        roomy = memory is None or memory >= _ROOMY
        entries = 100_000 if memory is None else max(1000, min(100_000, memory // 5 // _STAT_ENTRY))
        return {
            "max_stat_cache_size": str(entries),
            "stat_cache_expire": "60",
            "multireq_max": "20" if roomy else "5",
            "parallel_count": "5" if roomy else "2",
            "connect_timeout": "10",
            "readwrite_timeout": "60",
        }

    def _fixed(self, place: Place) -> dict[str, str]:
        """What is not the user's to change."""
        return {
            "url": self._bucket.url,
            "endpoint": self._bucket.region,
            **({"use_path_request_style": ""} if self._bucket.path_style else {}),
            **({"ro": ""} if self._read_only else {}),
            "fsname": place.source,
            "allow_other": "",
            "uid": str(self._owner.uid),
            "gid": str(self._owner.gid),
            "umask": self._owner.umask,
            # Without it the mount's root would be open to all, whatever `umask` says.
            "mp_umask": self._owner.umask,
            "tmpdir": place.cache,
            # Into a pipe its log is buffered until it ends; a log file is written at once, so before it answers the kernel.
            "logfile": "/dev/stderr",
            **({"public_bucket": "1"} if self._anonymous else {"passwd_file": f"{place.secrets}/passwd"}),
        }

    def _environment(self, place: Place) -> dict[str, str]:
        ca = self._credentials.ca_file
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": place.secrets, **({"CURL_CA_BUNDLE": ca} if ca else {})}


_LAST_WORDS: Final = (
    (re.compile(r"bucket or key not found"), "NoSuchBucket", 'bucket "{name}" does not exist at {url}; create it or correct it'),
    (re.compile(r"invalid credentials"), "AccessDenied", "{url} refuses the credentials in {whose}; correct them"),
    (re.compile(r"unable to connect"), "EndpointUnreachable", "{url} cannot be reached from this node; check the endpoint"),
    (re.compile(r"result of checking service"), "UnexpectedAnswer", '{url} refuses to serve bucket "{name}" to s3fs'),
    (
        re.compile(r"fuse: device not found|/dev/fuse"),
        "FuseUnavailable",
        "FUSE does not work on this node; load the module `fuse`",
    ),
)


def explain(output: str, bucket: Bucket, credentials: Credentials) -> Finding | None:
    if "no enough disk space" in output:
        return DISK_FULL
    for pattern, reason, message in _LAST_WORDS:
        if pattern.search(output):
            return Finding(reason, message.format(name=bucket.name, url=bucket.url, whose=credentials.whose))
    return None


KIND: Final = Kind(ALLOWED_OPTIONS, _CLAIM_OPTIONS, S3fs)
