"""A running pod gains and loses a bucket: the first thing that a user tries."""

from __future__ import annotations

from e2e import manifests
from e2e.conftest import World
from e2e.manifests import ROOT


def test_a_claim_brings_a_bucket_into_every_running_replica(world: World) -> None:
    pods = world.deploy(replicas=2)
    for pod in pods:
        assert world.kubectl.exec(pod, "ls", "-A", ROOT).out == ""
    bucket = world.bucket(readme="hello")

    world.kubectl.apply(world.claim("data", bucket))
    world.ready("data")

    for pod in pods:
        assert world.read(pod, "/data/readme") == "hello"
        assert world.restarts(pod) == 0
    assert world.pods() == pods
    shown = world.kubectl("get", "dvc", "data").splitlines()[1].split()
    assert {"s3", "/data", "2/2", "True"} <= set(shown)
    assert world.phases("data") == dict.fromkeys(pods, "Mounted")


def test_a_deleted_claim_is_gone_from_every_pod_and_takes_its_mount_pods_along(world: World) -> None:
    pods = world.deploy(replicas=2)
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    assert len(world.mount_pods()) == 2

    world.kubectl.delete("dvc", "data")

    for pod in pods:
        assert world.misses(pod, "/data/readme")
        assert world.kubectl.exec(pod, "ls", "-A", ROOT).out == ""
        assert world.restarts(pod) == 0
    world.settles(lambda: not world.mount_pods(), what="the mount pods are released")


def test_a_second_claim_joins_the_first_in_the_same_mount_pod(world: World) -> None:
    (pod,) = world.deploy()
    world.kubectl.apply(
        world.claim("one", world.bucket("one", name="first"), mountpoint="/one"),
        world.claim("two", world.bucket("two", name="second"), mountpoint="/deep/er/two"),
    )
    world.ready("one")
    world.ready("two")
    assert world.read(pod, "/one/name") == "first"
    assert world.read(pod, "/deep/er/two/name") == "second"
    assert len(world.mount_pods()) == 1

    world.kubectl.delete("dvc", "one")
    assert world.misses(pod, "/one")
    assert world.read(pod, "/deep/er/two/name") == "second"


def test_the_shapes_of_the_documentation_work_as_written(world: World) -> None:
    """The sample class with its 10m CPU and 50Mi; the sample claim but for the endpoint."""
    bucket = world.bucket(readme="sample")
    sample = manifests.provider_class(
        f"{world.provider_class}-sample",
        secret="s3",
        secret_namespace=world.namespace,
        mount_cpu_request="10m",
        mount_memory_request="50Mi",
        mount_cpu_limit="10m",
        mount_memory_limit="50Mi",
    )
    world.kubectl.apply(sample)
    sampled = world.in_class(f"{world.provider_class}-sample")
    (pod,) = sampled.deploy()
    claim = world.claim(
        "externalvolume-s3-sample", bucket, read_only=True, storageProvider="s3", storageProviderClass=sampled.provider_class
    )
    world.kubectl.apply(claim)
    world.ready("externalvolume-s3-sample", timeout=120)
    assert world.read(pod, "/data/readme") == "sample"
    adequate = world.condition(sampled.provider_class, "ResourcesAdequate", resource="spc")
    assert adequate["status"] == "False" and "10m" in adequate["message"]

    world.kubectl.delete("dvc", "externalvolume-s3-sample", timeout=90)
    world.kubectl.delete("deployment", "web")
    world.kubectl.delete("spc", sampled.provider_class)


def test_pods_that_come_later_get_what_is_there(world: World) -> None:
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.settles(lambda: world.condition("data", "Ready")["reason"] == "NoMatchingPods")
    (pod,) = world.deploy()
    world.ready("data")
    assert world.read(pod, "/data/readme") == "hello"
    world.kubectl("scale", "deployment/web", "--replicas=2")
    world.settles(lambda: world.kubectl.get("dvc", "data")["status"]["summary"] == "2/2")
    newer = next(p for p in world.pods() if p != pod)
    assert world.read(newer, "/data/readme") == "hello"


def test_a_namespace_can_opt_its_pods_in(world: World) -> None:
    annotations = {
        f"{manifests.GROUP}/{k}": v
        for k, v in (("storage-provider-class", world.provider_class), ("volume-mount-path-root", "/ns"))
    }
    labels = {f"{manifests.GROUP}/inject": "enabled"}
    world.kubectl.apply(manifests.namespace(world.namespace, annotations=annotations, labels=labels))
    world.kubectl.apply(manifests.pod("plain"), manifests.pod("out", annotations={f"{manifests.GROUP}/inject": "false"}))
    world.kubectl.wait("pod/plain", condition="condition=Ready")
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    assert world.kubectl.exec("plain", "cat", "/ns/data/readme").out == "hello"
    assert world.phases("data") == {"plain": "Mounted"}


def test_a_volume_written_by_hand_works_like_an_injected_one(world: World) -> None:
    attributes = {"storageProviderClass": world.provider_class}
    volume = {"name": "mine", "csi": {"driver": manifests.GROUP, "readOnly": True, "volumeAttributes": attributes}}
    mount = {"name": "mine", "mountPath": "/mine", "mountPropagation": "HostToContainer"}
    spec = manifests.pod_spec(volumes=[volume])
    spec["containers"][0]["volumeMounts"] = [mount]
    world.kubectl.apply(manifests.pod("hand", spec=spec))
    world.kubectl.wait("pod/hand", condition="condition=Ready")
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    assert world.kubectl.exec("hand", "cat", "/mine/data/readme").out == "hello"


def test_one_shared_mount_pod_serves_all_pods_of_a_namespace(world: World) -> None:
    pods = world.deploy(replicas=2, annotations={f"{manifests.GROUP}/mount-pod-dispatch-policy": "shared"})
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")
    for pod in pods:
        assert world.read(pod, "/data/readme") == "hello"
    assert len(world.mount_pods()) == 1
