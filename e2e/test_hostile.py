"""Users who mean harm: what they write into claims, pods and buckets reaches nothing but their own.

They hold what any user of a namespace holds: its claims, its pods with their labels and volumes, and the content of their buckets.
What the schema and the webhook refuse in words is `test_refusals`; here it is about what gets past them.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import manifests
from e2e.conftest import World

NAMES = [
    "-o allow_root",
    "--a,b=c",
    "$(touch owned);`id`|x&",
    "quo'te\"s",
    "back\\slash \\040",
    "*?[a-z]~#%s{}",
    "/".join("é" * 64),
]
"""Mountpoints, but for their first slash."""


def mounts(world: World, pod: str) -> dict[str, set[str]]:
    """Mount point → options, as the container sees them."""
    lines = world.kubectl.exec(pod, "cat", "/proc/mounts").out.splitlines()
    fields = (line.split(" ") for line in lines)
    return {field[1]: set(field[3].split(",")) for field in fields}


def by_hand(name: str, **attributes: str) -> dict[str, Any]:
    """A pod whose author wrote the volume, as anyone may."""
    volume = {"name": "mine", "csi": {"driver": manifests.GROUP, "volumeAttributes": attributes}}
    spec = manifests.pod_spec(volumes=[volume])
    spec["containers"][0]["volumeMounts"] = [{"name": "mine", "mountPath": manifests.ROOT, "mountPropagation": "HostToContainer"}]
    return manifests.pod(name, spec=spec)


def test_a_mountpoint_of_any_characters_is_a_name_and_nothing_more(world: World) -> None:
    (pod,) = world.deploy()
    bucket = world.bucket(readme="hello")
    world.kubectl.apply(*(world.claim(f"c{n}", bucket, mountpoint=f"/{name}") for n, name in enumerate(NAMES)))
    for n, name in enumerate(NAMES):
        world.ready(f"c{n}")
        assert world.read(pod, f"/{name}/readme") == "hello"
    world.kubectl.delete("dvc", "--all")
    assert world.kubectl.exec(pod, "ls", "-A", manifests.ROOT).out == ""


def test_links_in_a_bucket_lead_nowhere_but_within_the_container(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    plant = (
        "mkdir /only-here && cd $0/data && ln -s / root && ln -s ../../../../../.. up && ln -s /var/lib/dynamic state && "
        "ls -d root/only-here"
    )
    assert world.kubectl.exec(pod, "sh", "-c", plant, manifests.ROOT).out == "root/only-here\n"

    other = world.bucket("b", readme="other")
    for n, way in enumerate(("root/only-here/escaped", "up/only-here/escaped", "state/xvols", "root")):
        world.kubectl.apply(world.claim(f"nested-{n}", other, mountpoint=f"/data/{way}"))
        world.settles(lambda n=n: world.phases(f"nested-{n}") == {pod: "Conflict"})  # type: ignore[misc]
    # Once the bucket has gone, the names are free, and they are bare directories.
    world.kubectl.delete("dvc", "data")
    world.ready("nested-0")
    assert world.read(pod, "/data/root/only-here/escaped/readme") == "other"
    assert world.kubectl.exec(pod, "ls", "/only-here").out == ""
    assert not [p for p in world.ground.mounts("escaped") if f"{world.namespace}/" not in p and "kubernetes.io~csi" not in p]


@pytest.mark.parametrize("mounter", ["s3fs", "rclone"])
def test_what_a_bucket_holds_makes_no_one_root_and_is_no_device(world: World, mounter: str) -> None:
    name = f"{world.provider_class}-{mounter}"
    world.kubectl.apply(manifests.provider_class(name, secret="s3", secret_namespace=world.namespace, mounter=mounter))
    (pod,) = world.in_class(name).deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    assert {"nosuid", "nodev"} <= mounts(world, pod)[f"{manifests.ROOT}/data"]


def test_a_volume_whose_class_is_a_path_is_refused(world: World) -> None:
    done = world.kubectl.try_apply(by_hand("bad", storageProviderClass="../../../../etc"))
    assert done.code != 0
    assert "cannot be the name of a StorageProviderClass" in done.said


def test_a_pod_that_claims_to_be_another_gets_its_own(world: World) -> None:
    """In a shared class all pods of a namespace have their directories in one root: the namespace must be the true one."""
    (victim,) = world.deploy(annotations={f"{manifests.GROUP}/mount-pod-dispatch-policy": "shared"})
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    elsewhere = world.kubectl.within(f"{world.namespace}-x")
    world.kubectl.apply(manifests.namespace(elsewhere.namespace))
    spoofed = {
        "storageProviderClass": world.provider_class,
        "mountPodDispatchPolicy": "shared",
        "csi.storage.k8s.io/pod.namespace": world.namespace,
        "csi.storage.k8s.io/pod.name": victim,
        "csi.storage.k8s.io/pod.uid": world.kubectl.get("pod", victim)["metadata"]["uid"],
        "csi.storage.k8s.io/serviceAccount.name": "dynvol-node",
        "csi.storage.k8s.io/ephemeral": "false",
    }
    elsewhere.apply(by_hand("spoof", **spoofed))
    elsewhere.wait("pod/spoof", condition="condition=Ready")
    world.kubectl.apply(world.claim("more", world.bucket("b", readme="more"), mountpoint="/more", selector={}))
    world.ready("more")
    assert world.read(victim, "/more/readme") == "more"
    assert elsewhere.exec("spoof", "ls", "-A", manifests.ROOT).out == ""
    elsewhere("delete", "namespace", elsewhere.namespace, timeout=90)


def test_a_claim_whose_owner_takes_the_finalizer_off_is_unmounted_all_the_same(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    world.kubectl.delete("dvc", "data", wait=False)
    world.kubectl.try_("patch", "dvc", "data", "--type=merge", "--patch", '{"metadata":{"finalizers":null}}')
    world.settles(lambda: world.misses(pod, "/data"))


def test_an_object_nested_without_end_stops_no_process(world: World, tmp_path: Path) -> None:
    """The API server keeps what users write as `managedFields`; every process of dynvol reads it with the rest."""
    (pod,) = world.deploy()
    manifest = world.claim("deep", world.bucket(readme="hello"))
    entry = {"manager": "m", "operation": "Update", "apiVersion": manifests.API, "fieldsType": "FieldsV1", "fieldsV1": "@"}
    manifest["metadata"] |= {"namespace": world.namespace, "managedFields": [entry]}
    body = tmp_path / "claim.json"
    body.write_text(json.dumps(manifest).replace('"@"', '{"f:x":' * 5000 + "{}" + "}" * 5000))
    collection = f"/apis/{manifests.API}/namespaces/{world.namespace}/dynamicvolumeclaims"
    created = world.kubectl.try_("create", "--raw", collection, "-f", str(body))
    if created.code == 0:
        world.ready("deep")
    world.kubectl.apply(world.claim("plain", world.bucket("b", readme="hello"), mountpoint="/plain"))
    world.ready("plain")
    assert world.read(pod, "/plain/readme") == "hello"


# --- What a class allows


@pytest.fixture
def collector() -> Iterator[tuple[str, socket.socket]]:
    """The URL of a server that would see whatever a mount pod sends, and its socket, on which nothing is accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", listener


def pinned(world: World, **pins: str) -> dict[str, Any]:
    """The world's class, narrowed."""
    given = {f"allowed_{key}": value for key, value in pins.items()}
    return manifests.provider_class(world.provider_class, secret="s3", secret_namespace=world.namespace, **given)


def refused(world: World, claim: str, pod: str) -> bool:
    return world.phases(claim) == {pod: "Failed"} and world.condition(claim, "Ready")["reason"] == "NotAllowed"


def test_a_mount_pod_asks_no_endpoint_that_its_class_does_not_allow(world: World, collector: tuple[str, socket.socket]) -> None:
    url, listener = collector
    world.kubectl.apply(pinned(world, endpoints=world.store.endpoint, buckets=f"{world.namespace}*"))
    (pod,) = world.deploy()
    said = world.kubectl.apply(world.claim("good", world.bucket(readme="hello")))
    assert "allows" not in said
    for n, target in enumerate((url, "http://169.254.169.254", "https://kubernetes.default.svc")):
        world.kubectl.apply(world.claim(f"bad-{n}", world.namespace, mountpoint=f"/bad-{n}", endpoint=target))
        world.settles(lambda n=n: refused(world, f"bad-{n}", pod))  # type: ignore[misc]
    world.kubectl.apply(world.claim("theirs", "somebody-elses", mountpoint="/theirs"))
    world.settles(lambda: refused(world, "theirs", pod))
    world.ready("good")
    assert world.read(pod, "/data/readme") == "hello"
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_claim_that_names_a_class_which_does_not_allow_it_is_denied_and_told_why(world: World) -> None:
    world.kubectl.apply(pinned(world, buckets="public"))
    claim = world.claim("data", "secrets", storageProviderClass=world.provider_class)

    def denied() -> bool:
        done = world.kubectl.try_("create", "--dry-run=server", "-f", "-", stdin=json.dumps(claim))
        return done.code != 0 and "does not allow the bucket 'secrets'" in done.said

    # The webhook reads classes from a cache, which may be behind for a moment.
    world.settles(denied)


def test_what_a_class_comes_to_forbid_is_unmounted_and_comes_back_when_allowed(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    world.kubectl.apply(pinned(world, buckets="others-*"))
    world.settles(lambda: world.misses(pod, "/data"))
    world.settles(lambda: refused(world, "data", pod))
    assert "allowed-buckets" in world.condition("data", "Accepted")["message"]
    world.kubectl.apply(pinned(world, buckets=f"{world.namespace}*"))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"


def test_a_namespace_that_may_not_use_a_class_gets_neither_pods_nor_mounts(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(pinned(world, namespaces="others-*"))
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.settles(lambda: refused(world, "data", pod))
    assert not world.mount_pods()

    def denied(manifest: dict[str, Any]) -> bool:
        done = world.kubectl.try_("create", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
        return done.code != 0 and "does not allow the namespace" in done.said

    world.settles(lambda: denied(manifests.pod("late", annotations=world.annotations)))
    world.settles(lambda: denied(by_hand("late", storageProviderClass=world.provider_class)))
