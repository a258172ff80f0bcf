"""Brings a ground up for one session of the suite, with dynvol installed as its README says, and takes it down again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config

from e2e.cluster.s3 import S3Server
from e2e.kubectl import Kubectl, eventually

from .ground import ObjectStore
from .local import LocalGround, local_cluster

PROJECT = Path(__file__).resolve().parents[2]
ACCESS, KEY = "suite-access-key", "suite-secret-key-which-is-long"


@contextmanager
def local_ground(state: Path, *, real_apiserver: bool) -> Iterator[LocalGround]:
    """The local cluster, an S3 server that checks signatures, and `kubectl apply -k config/default`."""
    # The S3 server's folder lies in the cluster's, so that whatever takes the cluster down ends the server too.
    with (
        local_cluster(state / "cluster", real_apiserver=real_apiserver) as cluster,
        s3_server(state / "cluster" / "s3") as store,
    ):
        kubectl = Kubectl(cluster.kubeconfig)
        install(kubectl)
        yield LocalGround(cluster, kubectl, store)


@contextmanager
def s3_server(folder: Path) -> Iterator[ObjectStore]:
    server = S3Server(folder, access_key=ACCESS, secret_key=KEY)
    try:
        asyncio.run(server.start())
        yield object_store(server.endpoint, access=ACCESS, key=KEY)
    finally:
        asyncio.run(server.stop())


def object_store(endpoint: str, *, access: str, key: str) -> ObjectStore:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=key,
        region_name="us-east-1",
        verify=False,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3}, proxies={}),
    )
    return ObjectStore(endpoint, access, key, client)


def install(kubectl: Kubectl) -> None:
    """In one go; whatever comes too early is tried again by whoever needs it."""
    kubectl("apply", "-k", str(PROJECT / "config" / "default"))
    system = kubectl.within("dynvol-system")
    for what in ("daemonset/dynvol-node", "deployment/dynvol-webhook"):
        eventually(lambda what=what: system("rollout", "status", what, "--timeout=60s", timeout=70), within=90)  # type: ignore[misc]
