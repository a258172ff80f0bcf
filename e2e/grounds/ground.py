"""What the suite may ask of the cluster that it runs on; a test never asks which one that is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from e2e.kubectl import Kubectl


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """An S3 server that both the suite and the cluster's pods reach at `endpoint`, and that checks signatures."""

    endpoint: str
    access: str
    key: str
    client: Any
    """A boto3 client."""
    other: tuple[str, str] | None = None
    """A second access key with its secret key that are taken as well, if there is one."""
    for_anyone: Callable[[], AbstractContextManager[ObjectStore]] | None = None
    """Another server, inside the block, that asks nobody for a key, if there can be one."""

    def make(self, bucket: str, **objects: str) -> str:
        """Makes a bucket with objects: `readme="text"` becomes the key `readme`. Returns the bucket's name."""
        self.client.create_bucket(Bucket=bucket)
        for key, text in objects.items():
            self.put(bucket, key, text)
        return bucket

    def remove(self, bucket: str) -> None:
        for key in self.keys(bucket):
            self.client.delete_object(Bucket=bucket, Key=key)
        self.client.delete_bucket(Bucket=bucket)

    def put(self, bucket: str, key: str, text: str) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=text.encode())

    def read(self, bucket: str, key: str) -> str | None:
        """The object's text; None if there is no such object."""
        if key not in self.keys(bucket):
            return None
        text: str = self.client.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        return text

    def keys(self, bucket: str) -> list[str]:
        return [o["Key"] for o in self.client.list_objects_v2(Bucket=bucket).get("Contents", [])]


class Ground(Protocol):
    """A cluster with dynvol installed from config/, an S3 server, and a hand on its nodes' processes."""

    @property
    def kubectl(self) -> Kubectl: ...

    @property
    def store(self) -> ObjectStore: ...

    def kill(self, program: str, *, pod: str = "", signal: str = "KILL") -> int:
        """Signals those of dynvol's processes whose command line contains `program`, of the pod named `pod` if given. Returns how
        many. A user's process is never among them."""
        ...

    def mounts(self, containing: str) -> list[str]:
        """The mount points, in the nodes' own view, that contain this text."""
        ...

    def state_files(self) -> list[str]:
        """The directories of mount pods and workloads in dynvol's state directories on all nodes."""
        ...

    def write(self, path: str, text: str) -> None:
        """A file on the disk of each node, in directories that are made for it."""
        ...

    def read(self, path: str) -> str | None:
        """What a file on a node's disk says; None where no node has it."""
        ...

    def link(self, path: str, to: str) -> None:
        """A symbolic link on the disk of each node."""
        ...

    def erase(self, directory: str) -> None:
        """Takes a directory with all that is in it, if there is one, off the disk of each node."""
        ...

    def findings(self, text: str) -> list[str]:
        """Where a text stands on the nodes, plain or in base64: `command line of …`, `environment of …`, `memory of …`, `file …`.
        Of the files, those on disk. What the cluster itself keeps for its API is left out."""
        ...

    def run_in(self, pod_uid: str, *command: str) -> str:
        """Runs a command in a pod's mount namespace, also `without_api`; what it printed."""
        ...

    def fetch(self, address: str) -> tuple[int, str]:
        """HTTP status and text of a port in the cluster, also `without_api`; 0 where nobody answers."""
        ...

    def reboot(self) -> None:
        """All nodes lose all their processes and mounts at once, and come back with their disks. Skips where they
        are not the suite's own."""
        ...

    def without_api(self) -> AbstractContextManager[None]:
        """Inside the block dynvol has no API server: it is dead, by SIGKILL, or, where it is not the suite's own, what runs of
        dynvol on the nodes is cut off from it."""
        ...
