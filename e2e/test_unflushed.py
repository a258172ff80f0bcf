"""Data that was written and closed while its storage was away: it outlives whatever dies, and arrives in the end.

The storage is away for a claim whose bucket is gone, on any cluster and with any server. The client is rclone, which uploads after
close(2); s3fs answers a close when the upload is done, so it has nothing to lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from e2e import manifests
from e2e.conftest import World
from e2e.grounds.installation import SYSTEM
from e2e.kubectl import Completed, Kubectl
from e2e.manifests import GROUP, ROOT
from e2e.test_recovery import node_process_is_back

UNFLUSHED = "UnflushedData"


@pytest.fixture
def waiting(world: World) -> Iterator[tuple[World, str, str]]:
    """A world whose pod has closed a file that cannot be uploaded; the pod, and the bucket that is gone. It is there again after
    the test, however that ends: without it nothing could be taken down."""
    world.kubectl.apply(
        manifests.provider_class(
            world.provider_class, secret="s3", secret_namespace=world.namespace, mounter="rclone", mount_memory_limit="256Mi"
        )
    )
    (pod,) = world.deploy()
    bucket = world.bucket()
    world.kubectl.apply(world.claim("data", bucket))
    world.ready("data")
    assert world.kubectl.exec(pod, "ls", f"{ROOT}/data").code == 0
    world.store.remove(bucket)
    done = world.kubectl.exec(pod, "sh", "-c", f"echo written > {ROOT}/data/precious")
    assert done.code == 0, done.said
    yield world, pod, bucket
    if bucket not in {b["Name"] for b in world.store.client.list_buckets()["Buckets"]}:
        world.store.make(bucket)


def comes_back(world: World, bucket: str) -> None:
    world.store.make(bucket)
    world.settles(lambda: world.store.read(bucket, "precious") == "written\n", what="the file is in the bucket", within=180)


def waits(world: World) -> bool:
    """Whether the claim says that it waits, and for what."""
    entries: list[Mapping[str, Any]] = world.kubectl.get("dvc", "data").get("status", {}).get("pods", [])
    return [(e["phase"], e.get("reason"), "1 file is" in e.get("message", "")) for e in entries] == [
        ("Unmounting", UNFLUSHED, True)
    ]


def successor(world: World, old: Mapping[str, Any]) -> Callable[[], bool]:
    """Whether another mount pod has the place of the old one."""

    def runs() -> bool:
        done = world.kubectl.within(SYSTEM).try_("get", "pod", old["metadata"]["name"], "--output=jsonpath={.metadata.uid}")
        return not done.code and done.out not in ("", old["metadata"]["uid"])

    return runs


def mount_pod(world: World) -> Mapping[str, Any]:
    (name,) = world.mount_pods()
    return world.kubectl.within(SYSTEM).get("pod", name)


def test_what_waits_outlives_whatever_dies(waiting: tuple[World, str, str]) -> None:
    world, pod, bucket = waiting
    system = world.kubectl.within(SYSTEM)
    first = mount_pod(world)
    name = first["metadata"]["name"]
    assert world.ground.kill("rclone", pod=name)
    assert world.ground.kill("dynvol mounter", pod=name)
    assert world.ground.kill("dynvol node")
    node_process_is_back(world)
    system.delete("pod", name, wait=False)
    world.settles(successor(world, first), what="a successor of the one that was deleted")
    second = mount_pod(world)
    system("delete", "pod", name, "--grace-period=0", "--force")
    world.settles(successor(world, second), what="a successor of the one that was deleted by force")
    comes_back(world, bucket)
    world.settles(lambda: world.sees(pod, "/data/precious", "written\n"), what="the pod sees it")
    assert world.restarts(pod) == 0


def test_a_deleted_claim_waits_for_its_data_and_says_so(waiting: tuple[World, str, str]) -> None:
    world, pod, bucket = waiting
    world.kubectl.delete("dvc", "data", wait=False)
    world.settles(lambda: waits(world), what="the claim says what it waits for")
    assert "1 file is not in the storage" in world.condition("data", "Ready")["message"]
    world.settles(lambda: UNFLUSHED in {reason for reason, _ in world.kubectl.events("DynamicVolumeClaim", "data")})
    assert world.misses(pod, "/data")
    comes_back(world, bucket)
    world.settles(lambda: "NotFound" in world.kubectl.try_("get", "dvc", "data").said, what="the claim is gone")


def test_data_of_a_workload_that_is_gone_is_uploaded_though_its_mount_pod_was_deleted_too(waiting: tuple[World, str, str]) -> None:
    world, _, bucket = waiting
    world.kubectl.delete("deployment", "web")
    world.settles(lambda: waits(world), what="the claim says what it waits for")
    first = mount_pod(world)
    world.kubectl.within(SYSTEM)("delete", "pod", first["metadata"]["name"], "--grace-period=0", "--force")
    world.settles(successor(world, first), what="a mount pod that has nothing to do but upload")
    (node,) = [e["node"] for e in world.kubectl.get("dvc", "data")["status"]["pods"]]
    world.settles(
        lambda: any(f"{world.namespace}/data" in text for _, text in world.kubectl.within("default").events("Node", node))
    )
    world.kubectl.delete("dvc", "data", wait=False)
    world.settles(lambda: waits(world), what="the claim, which is being deleted, still says what it waits for")
    comes_back(world, bucket)
    world.settles(lambda: "NotFound" in world.kubectl.try_("get", "dvc", "data").said, what="the claim is gone")
    world.settles(lambda: not world.mount_pods(), what="the mount pod is gone")


@contextmanager
def draining(world: World, pod: str) -> Iterator[Future[Completed]]:
    """`kubectl drain` at work on the node of a pod, which takes all the others. Of that node only what is the test's has to go: the
    pod, and the mount pods of its class, whose label the pod gets."""
    whole = Kubectl(world.kubectl.kubeconfig)
    node, label = world.kubectl.get("pod", pod)["spec"]["nodeName"], f"{GROUP}/storage-provider-class={world.provider_class}"
    world.kubectl("label", "pod", pod, label)
    order = ("drain", node, "--ignore-daemonsets", f"--pod-selector={label}", "--timeout=240s")
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            yield pool.submit(whole.try_, *order, timeout=250)
        finally:
            whole("uncordon", node)


def test_a_drain_waits_for_the_data_and_the_next_pod_reads_it(waiting: tuple[World, str, str]) -> None:
    world, pod, bucket = waiting
    (before,) = world.mount_pods()
    with draining(world, pod) as drain:
        world.settles(lambda: waits(world), what="the claim says what it waits for")
        world.settles(lambda: "deletionTimestamp" in mount_pod(world)["metadata"], what="the mount pod is evicted too")
        assert pod not in world.pods()
        assert not drain.done()
        comes_back(world, bucket)
        done = drain.result()
        assert done.code == 0, done.said
        assert f"pod/{pod} evicted" in done.out and f"pod/{before} evicted" in done.out
    (heir,) = world.settles(lambda: world.pods())
    world.settles(lambda: world.sees(heir, "/data/precious", "written\n"), what="the next pod reads it")


def test_what_waits_outlives_a_reboot_of_its_node(waiting: tuple[World, str, str]) -> None:
    world, pod, bucket = waiting
    world.ground.reboot()
    comes_back(world, bucket)
    world.settles(lambda: world.sees(pod, "/data/precious", "written\n"), what="the pod sees it", within=180)
