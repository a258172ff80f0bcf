"""The client geesefs (0.40 and later): parallel, quick with many small files, knows rename and random writes.

Left to itself it uploads in the background after close(2); `fsync-on-close` makes closing wait for that, so nothing that was
closed is ever pending here. Nor does it tidy up uploads in the bucket that are not its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..contract import Command, Place
from ..options import Check, duration, flag, integer, one_of
from . import profile
from .kind import BucketClient, Kind

_MIB: Final = 1 << 20

ALLOWED_OPTIONS: Final[Mapping[str, Check]] = {
    "acl": one_of(
        "private", "public-read", "public-read-write", "authenticated-read", "bucket-owner-read", "bucket-owner-full-control"
    ),
    "cheap": flag,
    "disable-xattr": flag,
    "enable-mtime": flag,
    "entry-limit": integer(1000, 10_000_000),
    "http-timeout": duration,
    "list-type": one_of("1", "2"),
    "max-flushers": integer(1, 64),
    "max-parallel-parts": integer(1, 64),
    "memory-limit": integer(16, 1 << 20),
    "no-checksum": flag,
    "no-dir-object": flag,
    "no-implicit-dir": flag,
    "read-ahead": integer(0, 1 << 20),
    "read-ahead-large": integer(0, 1 << 20),
    "read-retry-attempts": integer(1, 100),
    "requester-pays": flag,
    "retry-interval": duration,
    "sdk-max-retries": integer(0, 30),
    "single-part": integer(1, 5120),
    "stat-cache-ttl": duration,
    "storage-class": one_of(
        "STANDARD", "STANDARD_IA", "ONEZONE_IA", "REDUCED_REDUNDANCY", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE"
    ),
    "use-content-type": flag,
}
_CLAIM_OPTIONS: Final = frozenset({"cheap", "enable-mtime", "no-implicit-dir", "read-ahead", "stat-cache-ttl", "storage-class"})


class GeeseFs(BucketClient):
    def command(self, place: Place) -> Command:
        options = {**self._defaults(place.memory), **self._options, **self._fixed(place)}
        # Not `--name value`: that would leave a flag without a value to take the next one's name for its own.
        flags = (f"--{name}={value}" if value else f"--{name}" for name, value in options.items())
        bucket = f"{self._bucket.name}:{self._bucket.prefix}" if self._bucket.prefix else self._bucket.name
        ca = self._credentials.ca_file
        return Command(
            argv=("geesefs", "-f", *flags, bucket, place.mountpoint),
            environment={
                "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": place.secrets,
                # The node's own role is not what the class means.
                "AWS_EC2_METADATA_DISABLED": "true",
                **({"SSL_CERT_FILE": ca} if ca else {}),
            },
            files={} if self._anonymous else {"credentials": profile.content(self._credentials)},
        )

    def _defaults(self, memory: int | None) -> dict[str, str]:
        """Its own defaults take a gigabyte. The Go runtime needs as much again as it caches."""
        share = 1000 if memory is None else max(16, memory // _MIB // 2)
        return {"memory-limit": str(share), "entry-limit": str(max(1000, min(100_000, share * 250)))}

    def _fixed(self, place: Place) -> dict[str, str]:
        """What is not the user's to change."""
        mount_options = ("allow_other", "default_permissions", f"fsname={place.source}", *(("ro",) if self._read_only else ()))
        return {
            "endpoint": self._bucket.url,
            "region": self._bucket.region,
            # It finds out by itself whether a bucket answers without credentials, and drops those it has unless a profile is named.
            **({} if self._anonymous else {"shared-config": f"{place.secrets}/credentials", "profile": "default"}),
            **({} if self._bucket.path_style else {"subdomain": ""}),
            "uid": str(self._owner.uid),
            "gid": str(self._owner.gid),
            # Else it would become the owner of the files itself, and lose its own files.
            "setuid": "0",
            "setgid": "0",
            "dir-mode": self._owner.mode(0o777),
            "file-mode": self._owner.mode(0o666),
            "no-specials": "",
            "fsync-on-close": "",
            "no-expire-multipart": "",
            "log-file": "stderr",
            "o": ",".join(mount_options),
        }


KIND: Final = Kind(ALLOWED_OPTIONS, _CLAIM_OPTIONS, GeeseFs)
