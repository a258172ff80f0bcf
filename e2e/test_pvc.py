"""PersistentVolumeClaims in running pods: held on the node by a pod of Kubernetes' own kind, shown by the node process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e import manifests
from e2e.conftest import World
from e2e.kubectl import Completed, Kubectl
from e2e.manifests import GROUP, ROOT


def _affinity(**requirement: object) -> dict[str, Any]:
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", **requirement}]}]
    return {"required": {"nodeSelectorTerms": terms}}


ANYWHERE = _affinity(operator="Exists")
NOWHERE = _affinity(operator="In", values=["no-such-node"])
HOLDERS = "--selector=app.kubernetes.io/component=holder"


@dataclass(frozen=True, slots=True)
class Volumes:
    """PersistentVolumes of one test, each with its claim."""

    world: World
    folder: str
    """On the nodes."""
    made: list[str]

    def make(self, name: str, *, claim: dict[str, Any] | None = None, **spec: Any) -> None:
        """A volume on the node's disk, with a file in it, and a claim that is to be bound to it, but for what `claim` says."""
        volume = f"{self.world.namespace}-{name}"
        self.world.ground.write(self.on_disk(name, "readme"), name)
        self.world.ground.write(self.on_disk(name, "users/alice/notes"), "of alice")
        common = {"accessModes": ["ReadWriteOnce"], "storageClassName": volume}
        source = {"hostPath": {"path": self.on_disk(name)}} if "local" not in spec else {}
        body = {**common, "capacity": {"storage": "1Gi"}, **source, **spec}
        self.made.append(volume)
        asked = {**common, "resources": {"requests": {"storage": "1Gi"}}, **(claim or {})}
        self.world.kubectl.apply(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": body},
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": asked},
        )

    def on_disk(self, name: str, file: str = "") -> str:
        return f"{self.folder}/{name}{file and '/' + file}"

    def saved(self, name: str, file: str) -> str | None:
        """What a file of the volume says, if it is there."""
        return self.world.ground.read(self.on_disk(name, file))


@pytest.fixture
def volumes(world: World) -> Iterator[Volumes]:
    world.kubectl.apply(manifests.provider_class(f"{world.provider_class}-pvc", secret="", secret_namespace="", provider="pvc"))
    made = Volumes(world, f"/var/tmp/{world.namespace}", [])
    try:
        yield made
    finally:
        world.kubectl.delete("dvc", "--all", timeout=90)
        world.kubectl.delete("pvc", "--all", "--wait=false")
        for name in made.made:
            world.kubectl.delete("pv", name, "--ignore-not-found", wait=False)
        world.ground.erase(made.folder)


def claim(name: str, volume_claim: str, *, sub_path: str = "", mountpoint: str = "/data", **spec: Any) -> dict[str, Any]:
    config = {"claimName": volume_claim, **({"subPath": sub_path} if sub_path else {})}
    written = {"mountpoint": mountpoint, "pvcConfig": config, "selector": {"matchLabels": {"app": "web"}}, **spec}
    return {"apiVersion": manifests.API, "kind": "DynamicVolumeClaim", "metadata": {"name": name}, "spec": written}


def in_pods(world: World, **more: Any) -> list[str]:
    return world.in_class(f"{world.provider_class}-pvc").deploy(**more)


def holders(world: World) -> list[str]:
    return [pod["metadata"]["name"] for pod in world.kubectl.list("pods", HOLDERS)]


def test_a_running_pod_gains_a_volume_then_another_and_loses_it(world: World, volumes: Volumes) -> None:
    """With nothing else of dynvol in it. The claim's end is the holder's: after that the volume is nobody's."""
    volumes.make("one")
    volumes.make("two")
    (pod,) = in_pods(world)

    world.kubectl.apply(claim("data", "one"))
    world.ready("data")
    assert world.read(pod, "/data/readme") == "one"
    assert world.kubectl.exec(pod, "sh", "-c", f"echo made here > {manifests.ROOT}/data/made").code == 0
    world.kubectl.apply(claim("data", "two"))
    world.settles(lambda: world.kubectl.exec(pod, "cat", f"{manifests.ROOT}/data/readme").out == "two")
    world.settles(lambda: len(holders(world)) == 1, what="the first volume's holder is gone")
    world.kubectl.delete("dvc", "data")

    assert world.misses(pod, "/data/readme")
    assert holders(world) == []
    assert world.restarts(pod) == 0
    assert volumes.saved("one", "made") == "made here\n"


def test_pods_of_a_node_share_a_holder_and_see_their_own_directory_of_the_volume(world: World, volumes: Volumes) -> None:
    volumes.make("disk")
    pods = in_pods(world, replicas=2)
    world.kubectl.apply(claim("alice", "disk", sub_path="users/alice"), claim("all", "disk", mountpoint="/all", readOnly=True))
    world.ready("alice")
    world.ready("all")
    for pod in pods:
        assert world.read(pod, "/data/notes") == "of alice"
        assert world.read(pod, "/all/readme") == "disk"
        refused = world.kubectl.exec(pod, "touch", f"{manifests.ROOT}/all/no")
        assert "Read-only file system" in refused.said
        assert world.kubectl.exec(pod, "ls", f"{manifests.ROOT}/data/..").out.split() == ["all", "data"]
    nodes = {world.kubectl.get("pod", pod)["spec"]["nodeName"] for pod in pods}
    assert len(holders(world)) == len(nodes)


def test_a_volume_that_waits_for_its_first_consumer_comes(world: World, volumes: Volumes) -> None:
    """The holder is the consumer. The volume is on the pod's node, and can be on no other; and belongs to the pod's group."""
    (pod,) = in_pods(world, spec=manifests.pod_spec(securityContext={"runAsUser": 1000, "fsGroup": 2345}))
    node = world.kubectl.get("pod", pod)["spec"]["nodeName"]
    provisioner, mode = "kubernetes.io/no-provisioner", "WaitForFirstConsumer"
    name = f"{world.namespace}-disk"
    storage_class = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
    world.kubectl.apply({**storage_class, "provisioner": provisioner, "volumeBindingMode": mode})
    try:
        affinity = _affinity(operator="In", values=[node])
        volumes.make("disk", local={"path": volumes.on_disk("disk")}, nodeAffinity=affinity)
        world.kubectl.apply(claim("data", "disk"))
        world.ready("data")
        assert world.read(pod, "/data/readme") == "disk"
        made = world.kubectl.exec(pod, "sh", "-c", f"cd {manifests.ROOT}/data && touch made && stat -c %g made")
        assert made.out.strip() == "2345", made.said
    finally:
        world.kubectl.delete("storageclass", name)


def test_a_holder_that_is_deleted_gets_a_successor_before_it_goes(world: World, volumes: Volumes) -> None:
    """A program that reads on and on never meets an error, and keeps the file that it has open. A node process that is killed
    meanwhile makes no difference."""
    volumes.make("disk")
    (pod,) = in_pods(world)
    world.kubectl.apply(claim("data", "disk"))
    world.ready("data")
    data = f"{manifests.ROOT}/data"
    reading = f"exec 3>> {data}/log; while cat {data}/readme; do echo x >&3 || break; sleep 0.02; done"
    world.kubectl.exec(pod, "sh", "-c", f"({reading}; touch /tmp/failed) > /dev/null 2>&1 &")
    (first,) = holders(world)

    world.kubectl.delete("pod", first, wait=False)
    assert world.ground.kill("dynvol node") > 0
    world.settles(lambda: first not in holders(world), within=90, what="the first holder is gone")

    (second,) = holders(world)
    assert second != first
    assert world.kubectl.exec(pod, "ls", "/tmp/failed").code != 0
    assert world.phases("data") == {pod: "Mounted"}


@contextmanager
def draining(world: World, pod: str, holder: str) -> Iterator[Future[Completed]]:
    """`kubectl drain` at work on the node of a pod, of which just this pod and its holder have to go. Pods of no Deployment go only
    by force, which asks them all the same."""
    whole = Kubectl(world.kubectl.kubeconfig)
    label = f"{GROUP}/holder={world.kubectl.get('pod', holder)['metadata']['labels'][f'{GROUP}/holder']}"
    world.kubectl("label", "pod", pod, label)
    node = world.kubectl.get("pod", pod)["spec"]["nodeName"]
    order = ("drain", node, "--ignore-daemonsets", "--force", f"--pod-selector={label}", "--timeout=240s")
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            yield pool.submit(whole.try_, *order, timeout=250)
        finally:
            whole("uncordon", node)


def test_a_drain_waits_for_the_users_of_a_volume_and_for_nothing_else(world: World, volumes: Volumes) -> None:
    """A pod that takes its time to end has its volume until then, though the holder was evicted with it. The holder's grace period
    is longer than the drain is given."""
    volumes.make("disk")
    told, ending, saving = f"touch {ROOT}/data/told", f"test -e {ROOT}/data/end", f"echo saved > {ROOT}/data/saved"
    command = f"trap '{told}; until {ending}; do sleep 0.1; done; {saving}; exit' TERM; while :; do sleep 0.1; done"
    spec = {**manifests.pod_spec(command=["sh", "-c", command]), "terminationGracePeriodSeconds": 200}
    world.kubectl.apply(manifests.pod("web", annotations=manifests.opted_in(f"{world.provider_class}-pvc"), spec=spec))
    world.kubectl.wait("pod/web", condition="condition=Ready")
    world.kubectl.apply(claim("data", "disk"))
    world.ready("data")
    (holder,) = holders(world)

    with draining(world, "web", holder) as drain:
        world.settles(lambda: volumes.saved("disk", "told") is not None, what="the pod has been told to end")
        world.settles(lambda: "deletionTimestamp" in world.kubectl.get("pod", holder)["metadata"], what="the holder, too")
        assert not drain.done()
        world.ground.write(volumes.on_disk("disk", "end"), "")
        done = drain.result()

    assert done.code == 0, done.said
    assert volumes.saved("disk", "saved") == "saved\n"
    assert holders(world) == []


def test_a_volume_is_shown_no_longer_than_it_is_held(world: World, volumes: Volumes) -> None:
    """Kubernetes may take the volume of a holder that is gone at once to another node. The next holder has it shown again. The
    first one's process ends too: kubelet leaves it its grace period, which is longer than the test."""
    volumes.make("disk")
    (pod,) = in_pods(world)
    world.kubectl.apply(claim("data", "disk"))
    world.ready("data")
    first = world.kubectl.list("pods", HOLDERS)[0]["metadata"]["uid"]
    watching = f"while cat {manifests.ROOT}/data/readme; do sleep 0.02; done > /dev/null 2>&1; touch /tmp/gone"
    world.kubectl.exec(pod, "sh", "-c", f"({watching}) > /dev/null 2>&1 &")

    world.kubectl("delete", "pod", HOLDERS, "--force", "--grace-period=0", "--wait=false")

    world.settles(lambda: world.kubectl.exec(pod, "ls", "/tmp/gone").code == 0, what="it is not shown any more")
    world.settles(lambda: world.kubectl.exec(pod, "cat", f"{manifests.ROOT}/data/readme").out == "disk")
    assert [p["metadata"]["uid"] for p in world.kubectl.list("pods", HOLDERS)] not in ([], [first])
    world.settles(lambda: not world.ground.mounts(f"{first}/volume-subpaths"), what="kubelet has taken the first one's mount away")


def test_a_pods_end_frees_the_volume(world: World, volumes: Volumes) -> None:
    """And a PersistentVolumeClaim that is deleted while it is shown stays until then, as Kubernetes has it."""
    volumes.make("disk")
    world.kubectl.apply(manifests.pod("web", annotations=manifests.opted_in(f"{world.provider_class}-pvc")))
    world.kubectl.wait("pod/web", condition="condition=Ready")
    world.kubectl.apply(claim("data", "disk"))
    world.ready("data")
    world.kubectl.delete("pvc", "disk", wait=False)
    assert world.read("web", "/data/readme") == "disk"
    # For another group of the files it takes another holder, which is another user.
    world.kubectl.apply(claim("late", "disk", mountpoint="/late", gid=2345))
    world.settles(lambda: entry(world, "late").get("reason") == "VolumeClaimTerminating")

    world.kubectl.delete("pod", "web")

    world.settles(lambda: holders(world) == [], what="the holder is gone")
    world.settles(lambda: world.kubectl.list("pvc") == [], what="nothing protects the claim any more")


def test_what_cannot_be_shown_is_said(world: World, volumes: Volumes) -> None:
    """In the claim's condition, and in the scheduler's own words where it has any. A program may plant a link in its volume: what
    is outside of that is not shown for it."""
    one_pod = {"accessModes": ["ReadWriteOncePod"]}
    volumes.make("alone", claim=one_pod, **one_pod)
    volumes.make("device", claim={"volumeMode": "Block"}, volumeMode="Block", local={"path": "/dev/null"}, nodeAffinity=ANYWHERE)
    volumes.make("unbound", claim={"storageClassName": "nobodys"})
    volumes.make("elsewhere", local={"path": "/srv"}, nodeAffinity=NOWHERE)
    volumes.make("disk")
    world.ground.link(volumes.on_disk("disk", "way-out"), "/etc")
    (pod,) = in_pods(world)
    reasons = {
        "disk": "SubPathRefused",
        "missing": "SubPathNotFound",
        "nowhere": "VolumeClaimNotFound",
        "alone": "VolumeIsForOnePod",
        "device": "VolumeIsBlockDevice",
        "unbound": "VolumeClaimNotBound",
        "elsewhere": "HolderUnschedulable",
    }
    sub_paths = {"disk": claim("disk", "disk", mountpoint="/out", sub_path="way-out")}
    sub_paths |= {"missing": claim("missing", "disk", mountpoint="/in", sub_path="later")}
    world.kubectl.apply(*(sub_paths.get(name) or claim(name, name, mountpoint=f"/{name}") for name in reasons))
    world.settles(lambda: {name: entry(world, name).get("reason") for name in reasons} == reasons)
    words = {"unbound": "unbound", "elsewhere": "node affinity", "disk": "symbolic link"}
    world.settles(lambda: all(word in world.condition(name, "Ready")["message"] for name, word in words.items()))
    assert world.misses(pod, "/out")
    world.ground.write(volumes.on_disk("disk", "later/readme"), "in it")
    world.ready("missing")
    world.kubectl.delete("dvc", "--all")
    assert holders(world) == []


def test_what_keeps_a_volume_from_its_node_is_said_until_it_comes(world: World, volumes: Volumes) -> None:
    """In Kubernetes' own words. What its attach-detach controller says, the test says for it: that takes a driver which attaches,
    and two nodes. It says once that another node has the volume; kubelet goes on and on about what it waits for."""
    missing = volumes.on_disk("missing")
    volumes.make("disk", hostPath={"path": missing, "type": "Directory"})
    (pod,) = in_pods(world)
    world.kubectl.apply(claim("data", "disk"))
    world.settles(lambda: entry(world, "data").get("reason") == "VolumeNotMounted")
    assert "is not a directory" in entry(world, "data")["message"]
    holder = world.kubectl.list("pods", HOLDERS)[0]

    elsewhere = (
        'Multi-Attach error for volume "disk" Volume is already exclusively attached to one node and can\'t be attached to another'
    )
    say(world, holder, "Warning", "FailedAttachVolume", elsewhere)
    world.settles(lambda: entry(world, "data").get("reason") == "VolumeAttachedElsewhere")
    assert elsewhere in world.condition("data", "Ready")["message"]
    say(world, holder, "Normal", "SuccessfulAttachVolume", "AttachVolume.Attach succeeded")
    world.settles(lambda: entry(world, "data").get("reason") == "VolumeNotMounted")
    world.ground.write(f"{missing}/readme", "there")

    world.ready("data", timeout=180)  # kubelet tries a mount again after up to two minutes
    assert world.kubectl.exec(pod, "ls", f"{ROOT}/data").code == 0


def say(world: World, pod: dict[str, Any], kind: str, reason: str, message: str) -> None:
    """An event about a pod, as controllers write them."""
    meta, now = pod["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"apiVersion": "v1", "kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}
    said = {"type": kind, "reason": reason, "message": message, "source": {"component": "attachdetach-controller"}}
    times = {"firstTimestamp": now, "lastTimestamp": now, "count": 1}
    name = f"{meta['name']}.{reason.lower()}"
    event = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": about, **said, **times}
    world.kubectl.apply(event)


def entry(world: World, name: str) -> dict[str, Any]:
    """What a claim says of its only pod."""
    pods: list[dict[str, Any]] = world.kubectl.get("dvc", name).get("status", {}).get("pods", [])
    return pods[0] if pods else {}
