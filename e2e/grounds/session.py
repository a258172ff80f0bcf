"""Brings a ground up for one session of the suite, with dynvol installed as its README says, and takes it down again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import boto3
from botocore.config import Config

from e2e.cluster.lifecycle import NO_IMAGES
from e2e.cluster.s3 import S3Server
from e2e.kubectl import Kubectl

from .ground import ObjectStore
from .installation import CONFIG, install, manifest
from .local import LocalGround, local_cluster

ACCESS, KEY = "suite-access-key", "suite-secret-key-which-is-long"
OTHER = "other-access-key", "other-secret-key-which-is-long"


@contextmanager
def local_ground(
    state: Path, *, real_apiserver: bool, images: Mapping[str, str] = NO_IMAGES, folder: Path = CONFIG, image: str = ""
) -> Iterator[LocalGround]:
    """The local cluster, an S3 server that checks signatures, and what `folder` installs, with `image` if it is given."""
    # The S3 server's folder lies in the cluster's, so that whatever takes the cluster down ends the server too.
    with (
        local_cluster(state / "cluster", real_apiserver=real_apiserver, images=images) as cluster,
        s3_server(state / "cluster" / "s3") as store,
    ):
        kubectl = Kubectl(cluster.kubeconfig)
        install(kubectl, manifest(kubectl, folder=folder, image=image))
        yield LocalGround(cluster, kubectl, store)


@contextmanager
def s3_server(folder: Path) -> Iterator[ObjectStore]:
    server = S3Server(folder, access_key=ACCESS, secret_key=KEY, more_keys={OTHER[0]: OTHER[1]})
    try:
        asyncio.run(server.start())
        store = object_store(server.endpoint, access=ACCESS, key=KEY, other=OTHER)
        yield replace(store, for_anyone=partial(s3_server_for_anyone, folder.with_name("public")))
    finally:
        asyncio.run(server.stop())


@contextmanager
def s3_server_for_anyone(folder: Path) -> Iterator[ObjectStore]:
    server = S3Server(folder, for_anyone=True)
    try:
        asyncio.run(server.start())
        yield object_store(server.endpoint, access="anyone", key="anyone")
    finally:
        asyncio.run(server.stop())
        server.remove_data()


def object_store(endpoint: str, *, access: str, key: str, other: tuple[str, str] | None = None) -> ObjectStore:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=key,
        region_name="us-east-1",
        verify=False,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 3}, proxies={}),
    )
    return ObjectStore(endpoint, access, key, client, other)
