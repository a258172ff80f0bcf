"""Storage that another provider brings: the same story as with S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import manifests
from e2e.conftest import World
from unit.mounter.nfsserver import NFSServer, nfs_server, with_client, with_server


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NFSServer]:
    """An NFS server on this machine, with a directory `/home`."""
    if request.config.option.kubeconfig:
        pytest.skip("the NFS server is on this machine, where a cluster's nodes may not reach it")
    with nfs_server(str(tmp_path)) as server:
        (server.export("home") / "readme").write_text("hello")
        server.up()
        yield server


def in_files(world: World, server: str, path: str) -> dict[str, Any]:
    """A claim for a directory of an NFS server, in a class of its own, which deployments have from now on."""
    name = f"{world.provider_class}-nfs"
    endpoint = f"nfs://{server}"
    world.kubectl.apply(manifests.provider_class(name, secret="", secret_namespace="", provider="nfs", allowed_endpoints=endpoint))
    spec = {"mountpoint": "/data", "selector": {}, "nfsConfig": {"server": server, "path": path}}
    return {"apiVersion": manifests.API, "kind": "DynamicVolumeClaim", "metadata": {"name": "data"}, "spec": spec}


def comes_and_goes(world: World, pod: str, claim: dict[str, Any]) -> None:
    """What is there is read, something is `made`, and it is gone again; the pod runs on."""
    world.kubectl.apply(claim)
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"
    world.kubectl.exec(pod, "sh", "-c", f"echo made here > {manifests.ROOT}/data/made")
    world.kubectl.delete("dvc", "data")
    assert world.misses(pod, "/data/readme")
    assert world.restarts(pod) == 0


def test_what_rclone_knows_is_brought_into_a_running_pod_and_taken_away(world: World) -> None:
    """Here a bucket, since every ground has a store; WebDAV and SFTP differ in their options only."""
    bucket = world.bucket(readme="hello")
    world.kubectl.apply(
        manifests.provider_class(
            f"{world.provider_class}-rclone",
            secret="s3",
            secret_namespace=world.namespace,
            provider="rclone",
            allowed_endpoints=world.store.endpoint,
            mount_memory_limit="192Mi",
        )
    )
    (pod,) = world.in_class(f"{world.provider_class}-rclone").deploy()
    spec = {
        "mountpoint": "/data",
        "selector": {"matchLabels": {"app": "web"}},
        "rcloneConfig": {
            "type": "s3",
            "path": bucket,
            "parameters": {"provider": "Other", "endpoint": world.store.endpoint},
            "secretKeys": {"access_key_id": "access-key-id", "secret_access_key": "secret-access-key"},
        },
    }
    claim = {"apiVersion": manifests.API, "kind": "DynamicVolumeClaim", "metadata": {"name": "data"}, "spec": spec}

    comes_and_goes(world, pod, claim)
    assert world.store.read(bucket, "made") == "made here\n"


def test_a_claim_cannot_send_the_secret_to_a_server_that_its_class_does_not_name(world: World) -> None:
    name = f"{world.provider_class}-rclone"
    world.kubectl.apply(
        manifests.provider_class(
            name, secret="s3", secret_namespace=world.namespace, provider="rclone", allowed_endpoints="https://dav.example.com"
        )
    )
    config = {
        "type": "webdav",
        "parameters": {"url": "http://collector.example.org"},
        "secretKeys": {"bearer_token": "secret-access-key"},
    }
    spec = {"mountpoint": "/data", "selector": {}, "rcloneConfig": config, "storageProviderClass": name}
    claim = {"apiVersion": manifests.API, "kind": "DynamicVolumeClaim", "metadata": {"name": "data"}, "spec": spec}
    refused = world.kubectl.try_apply(claim)
    assert refused.code != 0
    assert "does not allow the endpoint 'http://collector.example.org'" in refused.said


def test_a_claim_for_an_nfs_server_that_cannot_be_mounted_says_why_and_goes(world: World) -> None:
    """Where nothing listens. Not every kernel has a client either; which of the two is missing, the kernel says."""
    claim = in_files(world, "127.0.0.1:9", "/exports")
    (pod,) = world.in_class(f"{world.provider_class}-nfs").deploy()

    world.kubectl.apply(claim)
    reasons = ("KernelWithoutNFS", "EndpointUnreachable")
    world.settles(lambda: world.condition("data", "Ready").get("reason") in reasons, what="the claim says what is missing")
    world.kubectl.delete("dvc", "data")
    assert world.restarts(pod) == 0


@with_client
@with_server
def test_a_directory_of_an_nfs_server_is_brought_into_a_running_pod_and_taken_away(world: World, files: NFSServer) -> None:
    claim = in_files(world, files.address, "/home")
    (pod,) = world.in_class(f"{world.provider_class}-nfs").deploy()

    comes_and_goes(world, pod, claim)
    assert (files.root / "home/made").read_text() == "made here\n"
