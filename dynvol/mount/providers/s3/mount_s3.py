"""The client mount-s3 (Mountpoint for Amazon S3, 1.9 and later): quick for large reads, and strict about writes.

It writes new files from beginning to end and overwrites whole ones; no rename of directories, no append, no random writes. It
ends an upload within close(2). It has no say in what its mount is called, so the mounter mounts and hands it the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..contract import DEVICE, Command, Place
from ..options import Check, integer, one_of
from . import profile
from .kind import BucketClient, Kind

_MIB: Final = 1 << 20
_LEAST_TARGET: Final = 512

ALLOWED_OPTIONS: Final[Mapping[str, Check]] = {
    "max-threads": integer(1, 64),
    "maximum-throughput-gbps": integer(1, 400),
    "metadata-ttl": integer(0, 31_536_000),
    "negative-metadata-ttl": integer(0, 31_536_000),
    "part-size": integer(5 * _MIB, 5120 * _MIB),
    "sse": one_of("AES256", "aws:kms", "aws:kms:dsse"),
    "storage-class": one_of(
        "STANDARD",
        "STANDARD_IA",
        "ONEZONE_IA",
        "REDUCED_REDUNDANCY",
        "INTELLIGENT_TIERING",
        "GLACIER",
        "GLACIER_IR",
        "DEEP_ARCHIVE",
    ),
    "upload-checksums": one_of("crc32c", "off"),
}
_CLAIM_OPTIONS: Final = frozenset({"metadata-ttl", "negative-metadata-ttl", "storage-class"})


class MountS3(BucketClient):
    def command(self, place: Place) -> Command:
        options = {**self._defaults(place.memory), **self._options, **self._fixed()}
        flags = (f"--{name}={value}" if value else f"--{name}" for name, value in options.items())
        return Command(
            argv=("mount-s3", *flags, self._bucket.name, DEVICE),
            environment={
                "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": place.secrets,
                # The node's own role is not what the class means.
                "AWS_EC2_METADATA_DISABLED": "true",
            },
            files={} if self._anonymous else {".aws/credentials": profile.content(self._credentials)},
            takes_device=True,
            read_only=self._read_only,
        )

    def _defaults(self, memory: int | None) -> dict[str, str]:
        """Its default is nearly all that the class grants."""
        return {} if memory is None else {"memory-target": str(max(_LEAST_TARGET, memory // _MIB))}

    def _fixed(self) -> dict[str, str]:
        """What is not the user's to change."""
        bucket, owner, ca = self._bucket, self._owner, self._credentials.ca_file
        return {
            "foreground": "",
            "region": bucket.region,
            **({"no-sign-request": ""} if self._anonymous else {}),
            **({"endpoint-url": bucket.endpoint} if bucket.endpoint else {}),
            **({"force-path-style": ""} if bucket.path_style else {}),
            **({"prefix": f"{bucket.prefix}/"} if bucket.prefix else {}),
            # Without them it is root, which is what zero means here; it takes no zero.
            **({"uid": str(owner.uid)} if owner.uid else {}),
            **({"gid": str(owner.gid)} if owner.gid else {}),
            "dir-mode": owner.mode(0o777),
            "file-mode": owner.mode(0o666),
            "allow-other": "",
            **({} if self._read_only else {"allow-delete": "", "allow-overwrite": ""}),
            **({"ca-bundle": ca} if ca else {}),
        }


KIND: Final = Kind(ALLOWED_OPTIONS, _CLAIM_OPTIONS, MountS3)
