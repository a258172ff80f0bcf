"""The buckets, asked of the S3 server itself: past the network that is made bad, past FUSE, past dynvol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from e2e.grounds.session import object_store


@dataclass(slots=True)
class Buckets:
    """Blocks; to be called in a thread."""

    endpoint: str
    access: str
    key: str
    names: tuple[str, ...]

    def make(self) -> None:
        for name in self.names:
            self._client().create_bucket(Bucket=name)

    def digests(self) -> dict[str, str]:
        """Of every object in all of them: key → MD5 in hex. The writers' keys are unique."""
        found: dict[str, str] = {}
        for name in self.names:
            for page in self._client().get_paginator("list_objects_v2").paginate(Bucket=name):
                found |= {entry["Key"]: entry["ETag"].strip('"') for entry in page.get("Contents") or ()}
        return found

    def remove(self, keys: Iterable[str]) -> None:
        wanted = set(keys)
        for name in self.names:
            for page in self._client().get_paginator("list_objects_v2").paginate(Bucket=name):
                there = [entry["Key"] for entry in page.get("Contents") or () if entry["Key"] in wanted]
                if there:
                    self._client().delete_objects(Bucket=name, Delete={"Objects": [{"Key": key} for key in there], "Quiet": True})

    def _client(self) -> Any:
        return object_store(self.endpoint, access=self.access, key=self.key).client
