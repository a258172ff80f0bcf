"""config/ on an API server: accepted as it is, refusing what it should, granting no more than it says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import yaml

from dynvol.api import names
from dynvol.api.core import Node
from dynvol.api.identity import Holding
from dynvol.controllers.held.holderspec import holder_pod
from dynvol.controllers.startuptaint import removal
from unit.apiservers import CONFIG, KINDS, Kubectl, apiserver, eventually, needs_kubectl

from .bad_inputs import ACCEPTED, CLASSES_REFUSED, REFUSED

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_kubectl]
API_VERSION = f"{names.GROUP}/{names.VERSION}"


async def tried(kubectl: Kubectl, kind: str, spec: dict[str, Any]) -> tuple[int, str]:
    return await kubectl.tried({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": spec})


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS)
async def kubectl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kubectl]:
    """With all of config/default installed, but for the webhook configurations: nobody answers here."""
    async with apiserver(request.param, tmp_path_factory.mktemp("apiserver")) as kubectl:
        await kubectl.ok("apply", "-k", str(CONFIG / "default"))
        await kubectl.ok("wait", "--for=condition=Established", "crd", "--all")
        for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
            await kubectl.ok("delete", kind, "dynvol-webhook")
        yield kubectl


async def test_all_of_it_can_be_applied_again(kubectl: Kubectl) -> None:
    said = await kubectl.ok("apply", "--dry-run=server", "-k", str(CONFIG / "default"))
    changed = [line for line in said.splitlines() if line.endswith("configured (server dry run)")]
    # Pod disruption budgets are patched without effect: kubectl cannot merge their selectors.
    assert [line for line in changed if "poddisruptionbudget" not in line] == []


async def test_the_samples_are_accepted(kubectl: Kubectl) -> None:
    await kubectl.ok("apply", "-k", str(CONFIG / "samples"))
    stored = await kubectl.ok("get", "dvc", "-n", "dynamic-volume-test", "externalvolume-s3-sample", "-o", "yaml")
    assert yaml.safe_load(stored)["spec"]["s3Config"]["pathStyle"] is True
    await kubectl.ok("apply", "-k", str(CONFIG / "samples" / "pvc"))
    await kubectl.ok("apply", "-k", str(CONFIG / "samples" / "nfs"))


@pytest.mark.parametrize("case", ACCEPTED)
async def test_a_good_claim_is_accepted(kubectl: Kubectl, case: str) -> None:
    status, said = await tried(kubectl, "DynamicVolumeClaim", ACCEPTED[case])
    assert status == 0, said


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_claim_is_refused_in_words(kubectl: Kubectl, case: str) -> None:
    spec, words = REFUSED[case]
    if not kubectl.real and "\0" in spec.get("mountpoint", ""):
        pytest.skip("the CEL library of the project's own API server ends strings at their first null")
    status, said = await tried(kubectl, "DynamicVolumeClaim", spec)
    assert status != 0
    assert words in said


@pytest.mark.parametrize("case", CLASSES_REFUSED)
async def test_a_bad_class_is_refused_in_words(kubectl: Kubectl, case: str) -> None:
    spec, words = CLASSES_REFUSED[case]
    status, said = await tried(kubectl, "StorageProviderClass", spec)
    assert status != 0
    assert words in said


async def test_a_field_that_does_not_exist_is_refused_rather_than_dropped(kubectl: Kubectl) -> None:
    status, said = await tried(kubectl, "DynamicVolumeClaim", {**ACCEPTED["the least"], "tapeConfig": {"drive": "x"}})
    assert status != 0
    assert 'unknown field "spec.tapeConfig"' in said


async def test_explain_reads_well(kubectl: Kubectl) -> None:
    said = await kubectl.ok("explain", "dvc.spec.mountpoint")
    assert "below the pod's volume root" in said
    assert "Example: /data" in said


def told(kubectl: Kubectl, words: str, said: str) -> bool:
    """Whether kubectl passed on a policy's words. It does where the answer lists them as causes, as the real server's does."""
    return words in said or (not kubectl.real and "invalid" in said)


class MountPod:
    """What the pod `mine` may do with its token. There is another, `other`."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl

    async def annotate(self, pod: str, annotation: str) -> tuple[int, str]:
        return await self._kubectl("annotate", "--overwrite", "pod", "-n", names.NAMESPACE, pod, annotation)

    async def merge(self, pod: str, patch: dict[str, Any]) -> tuple[int, str]:
        return await self._kubectl("patch", "pod", "-n", names.NAMESPACE, pod, "--type=merge", f"--patch={json.dumps(patch)}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mount_pod(kubectl: Kubectl) -> MountPod:
    for name in ("mine", "other"):
        metadata = {"name": name, "namespace": names.NAMESPACE, "annotations": {names.WANTED_ANNOTATION: "[]"}}
        # Without a token in it, a patch can change the image alone, which no server minds.
        account = {"serviceAccountName": "dynvol-mount", "automountServiceAccountToken": False}
        spec = {**account, "containers": [{"name": "mounter", "image": "x"}]}
        await kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    mount_pod = MountPod(await kubectl.account("dynvol-mount", namespace=names.NAMESPACE, pod="mine"))

    async def held() -> bool:
        """A policy takes a moment to be compiled; until then it denies nothing."""
        return (await mount_pod.annotate("other", "x=y"))[0] != 0

    await eventually(held)
    return mount_pod


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node_process(kubectl: Kubectl) -> Kubectl:
    """Speaks as the node process of the node `mine`; there is another node, and both have the startup taint."""
    taints = [{"key": "other", "effect": "NoSchedule"}, {"key": names.STARTUP_TAINT, "effect": "NoExecute"}]
    for name in ("mine", "other"):
        await kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": taints}})
    metadata = {"name": "node-process", "namespace": names.NAMESPACE}
    spec = {"serviceAccountName": "dynvol-node", "nodeName": "mine", "containers": [{"name": "node", "image": "x"}]}
    await kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    account = await kubectl.account("dynvol-node", namespace=names.NAMESPACE, pod="node-process")

    async def held() -> bool:
        return (await patched(account, "other", {"metadata": {"labels": {"held": "no"}}}))[0] != 0

    await eventually(held)
    return account


async def patched(account: Kubectl, node: str, patch: dict[str, Any]) -> tuple[int, str]:
    return await account("patch", "node", node, "--type=merge", f"--patch={json.dumps(patch)}")


LEFT = [{"key": "other", "effect": "NoSchedule"}]


async def test_a_node_process_takes_no_startup_taint_off_another_node(node_process: Kubectl) -> None:
    status, said = await patched(node_process, "other", {"spec": {"taints": LEFT}})
    assert status != 0
    assert told(node_process, "may patch no node but its own", said)


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"taints": []}},
        {"spec": {"taints": [*LEFT, {"key": "new", "effect": "NoExecute"}]}},
        {"spec": {"taints": LEFT, "unschedulable": True}},
        {"spec": {"taints": LEFT}, "metadata": {"labels": {"a": "b"}}},
        {"spec": {"taints": LEFT}, "metadata": {"annotations": {"a": "b"}}},
        {"spec": {"taints": LEFT}, "metadata": {"finalizers": ["a.b/c"]}},
        {"spec": {"taints": LEFT, "providerID": "x://y"}},
    ],
    ids=lambda p: json.dumps(p)[:60],
)
async def test_a_node_process_changes_nothing_else_of_its_node(node_process: Kubectl, patch: dict[str, Any]) -> None:
    status, said = await patched(node_process, "mine", patch)
    assert status != 0
    assert told(node_process, "a node process may change no", said)


async def test_a_node_process_takes_the_startup_taint_off_its_node(kubectl: Kubectl, node_process: Kubectl) -> None:
    """The real server has put on one of its own, which stays as well."""
    before = msgspec.convert(await kubectl.json("get", "node", "mine"), Node)
    status, said = await node_process("patch", "node", "mine", "--type=json", f"--patch={json.dumps(removal(before))}")
    assert status == 0, said
    after = msgspec.convert(await kubectl.json("get", "node", "mine"), Node)
    assert after.spec.taints == tuple(t for t in before.spec.taints if t.key != names.STARTUP_TAINT)


@pytest.mark.parametrize(
    ("kind", "name", "patch"),
    [
        ("serviceaccount", "dynvol-node", {"metadata": {"annotations": {"cloud/role": "admin"}}}),
        ("serviceaccount", "dynvol-mount", {"metadata": {"finalizers": ["a.b/c"]}}),
        ("serviceaccount", "dynvol-node", {"automountServiceAccountToken": False}),
        ("serviceaccount", "dynvol-node", {"imagePullSecrets": [{"name": "x"}]}),
        ("role", "dynvol-mount", {"rules": []}),
        ("clusterrole", "dynvol-node", {"metadata": {"labels": {"a": "b"}}}),
        ("rolebinding", "dynvol-mount", {"subjects": []}),
        ("clusterrolebinding", "dynvol-node", {"subjects": []}),
    ],
    ids=lambda p: json.dumps(p)[:60] if isinstance(p, dict) else p,
)
async def test_a_node_process_changes_nothing_of_what_it_guards(
    node_process: Kubectl, kind: str, name: str, patch: dict[str, Any]
) -> None:
    """Even of what RBAC alone would let it change, or take away."""

    async def refused() -> bool:
        """A policy takes a moment to be compiled."""
        # As a trial: until then RBAC alone decides, and lets some of it happen.
        status, said = await patched_guarded(node_process, kind, name, patch, "--dry-run=server")
        return status != 0 and told(node_process, "a node process may change no", said)

    await eventually(refused)


async def patched_guarded(account: Kubectl, kind: str, name: str, patch: dict[str, Any], *options: str) -> tuple[int, str]:
    where = () if kind.startswith("cluster") else ("-n", names.NAMESPACE)
    return await account("patch", kind, name, *where, "--type=merge", f"--patch={json.dumps(patch)}", *options)


@pytest.mark.parametrize("kind", ["serviceaccount", "role", "rolebinding", "clusterrole", "clusterrolebinding"])
async def test_a_node_process_puts_its_guard_on_and_takes_it_off(kubectl: Kubectl, node_process: Kubectl, kind: str) -> None:
    for finalizers in ([names.GUARD_FINALIZER], None):
        patch = {"metadata": {"finalizers": finalizers}}
        status, said = await patched_guarded(node_process, kind, names.NODE_ACCOUNT, patch)
        assert status == 0, said
        found = await kubectl.json("get", kind, names.NODE_ACCOUNT, "-n", names.NAMESPACE)
        assert found["metadata"].get("finalizers") == finalizers


def holder(**spec: Any) -> dict[str, Any]:
    """A holder as a node process makes it, but for what is changed in its `spec` or, under `container`, in that of its
    container."""
    made = holder_pod(Holding("mine", "held", "disk", 1000), number=0, image="dynvol", node=None)
    made["spec"]["containers"][0] |= spec.pop("container", {})
    made["spec"] |= spec
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def holding_process(kubectl: Kubectl, node_process: Kubectl) -> Kubectl:
    """The node process, in a cluster with a namespace `held` that enforces the strictest Pod Security Standard there is."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "held"}}
    await kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "held", "labels": labels}}, account)

    async def compiled() -> bool:
        """The policy is what refuses this: Pod Security minds no name."""
        other = holder()
        other["metadata"]["name"] = "other"
        return (await node_process.tried(other))[0] != 0

    await eventually(compiled)
    return node_process


async def test_a_node_process_makes_and_deletes_holders_on_its_node(holding_process: Kubectl) -> None:
    await holding_process.ok("create", "-f", "-", given=json.dumps(holder()))
    await holding_process.ok("delete", "pod", "-n", "held", holder()["metadata"]["name"], "--wait=false")


async def test_a_node_process_deletes_holders_that_did_otherwise(kubectl: Kubectl, holding_process: Kubectl) -> None:
    """They are of another version, and run until their last user is gone."""
    other = holder(container={"command": ["sleep", "infinity"]})
    await kubectl.apply(other)
    await holding_process.ok("delete", "pod", "-n", "held", other["metadata"]["name"], "--wait=false")


@pytest.mark.parametrize(
    "changed",
    [
        {"volumes": [{"name": "volume", "secret": {"secretName": "keys"}}]},
        {"volumes": [{"name": "volume", "emptyDir": {}}]},
        {"volumes": [*holder()["spec"]["volumes"], {"name": "more", "emptyDir": {}}]},
        {"hostPID": True},
        {"nodeName": "mine"},
        {"affinity": {}},
        {"affinity": holder_pod(Holding("other", "held", "disk", None), number=0, image="x", node=None)["spec"]["affinity"]},
        {"automountServiceAccountToken": True},
        {"initContainers": holder()["spec"]["containers"]},
        {"containers": [*holder()["spec"]["containers"], {"name": "more", "image": "x"}]},
        {"securityContext": {**holder()["spec"]["securityContext"], "runAsUser": 0}},
        {"container": {"command": ["sh"]}},
        {"container": {"env": [{"name": "A", "value": "b"}]}},
        {"container": {"lifecycle": {"preStop": {"exec": {"command": ["sh"]}}}}},
        {"container": {"securityContext": {"privileged": True}}},
        {"container": {"volumeMounts": [{"name": "volume", "mountPath": "/volume"}]}},
    ],
    ids=lambda changed: json.dumps(changed)[:50],
)
async def test_a_node_process_makes_no_other_pods_for_users(holding_process: Kubectl, changed: dict[str, Any]) -> None:
    status, said = await holding_process.tried(holder(**changed))
    assert status != 0
    assert told(holding_process, "holder", said)


async def test_a_node_process_deletes_no_pod_of_a_user(kubectl: Kubectl, holding_process: Kubectl) -> None:
    """Not even one that is a holder by all that its label says."""
    labels = holder()["metadata"]["labels"]
    for name in ("users", "dynvol-holder-of-a-user"):
        container = holder()["spec"]["containers"][0]
        spec = {**holder()["spec"], "containers": [container], "volumes": [{"name": "volume", "emptyDir": {}}]}
        metadata = {"name": name, "namespace": "held", "labels": labels}
        await kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        status, said = await holding_process("delete", "pod", "-n", "held", name, "--wait=false")
        assert status != 0
        assert told(holding_process, "holder", said)


REPORT = f"{names.REPORT_ANNOTATION}=[]"


async def test_a_mount_pod_reports_on_itself(mount_pod: MountPod) -> None:
    status, said = await mount_pod.annotate("mine", REPORT)
    assert status == 0, said


async def test_a_mount_pod_reports_on_no_other(mount_pod: MountPod) -> None:
    status, said = await mount_pod.annotate("other", REPORT)
    assert status != 0
    assert "may patch no pod but itself" in said


@pytest.mark.parametrize("annotation", [f"{names.WANTED_ANNOTATION}=[1]", f"{names.WANTED_ANNOTATION}-", "x=y"])
async def test_a_mount_pod_changes_no_other_annotation_of_itself(mount_pod: MountPod, annotation: str) -> None:
    status, said = await mount_pod.annotate("mine", annotation)
    assert status != 0
    assert "may change no annotation but its mount report" in said


@pytest.mark.parametrize(
    "patch",
    [
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"finalizers": ["a.b/c"]}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "other", "uid": "1"}]}},
        {"spec": {"activeDeadlineSeconds": 1}},
        {"spec": {"containers": [{"name": "mounter", "image": "evil"}]}},
    ],
    ids=lambda p: json.dumps(p)[:40],
)
async def test_a_mount_pod_changes_nothing_else_of_itself(mount_pod: MountPod, patch: dict[str, Any]) -> None:
    status, said = await mount_pod.merge("mine", patch)
    assert status != 0
    assert "may change nothing of itself but its mount report" in said


@pytest.mark.parametrize(
    ("account", "question", "answer"),
    [
        ("dynvol-mount", "get secrets -n dynvol-system", False),
        ("dynvol-mount", "create pods -n dynvol-system", False),
        ("dynvol-mount", "delete pods -n dynvol-system", False),
        ("dynvol-mount", "get pods -n default", False),
        ("dynvol-mount", "get dynamicvolumeclaims -n default", False),
        ("dynvol-webhook", "get secrets/dynvol-webhook-certificate -n dynvol-system", True),
        ("dynvol-webhook", "get secrets/other -n dynvol-system", False),
        ("dynvol-webhook", "list secrets -n dynvol-system", False),
        ("dynvol-webhook", "get secrets -n default", False),
        ("dynvol-webhook", "patch mutatingwebhookconfigurations/dynvol-webhook", True),
        ("dynvol-webhook", "patch mutatingwebhookconfigurations/other", False),
        ("dynvol-webhook", "get pods -n default", False),
        ("dynvol-node", "get secrets -n default", True),
        ("dynvol-node", "list secrets -n default", False),
        ("dynvol-node", "list secrets -n dynvol-system", False),
        ("dynvol-node", "create pods -n dynvol-system", True),
        ("dynvol-node", "create pods -n default", True),
        ("dynvol-node", "delete pods -n default", True),
        ("dynvol-node", "patch pods -n default", False),
        ("dynvol-node", "create pods --subresource=exec -n default", False),
        ("dynvol-node", "get persistentvolumeclaims -n default", True),
        ("dynvol-node", "list persistentvolumeclaims -n default", False),
        ("dynvol-node", "patch nodes", True),
        ("dynvol-node", "update nodes", False),
        ("dynvol-node", "patch nodes --subresource=status", False),
        ("dynvol-node", "delete nodes", False),
        ("dynvol-node", "patch dynamicvolumeclaims --subresource=status -n default", True),
        ("dynvol-node", "delete dynamicvolumeclaims -n default", False),
        ("dynvol-node", "patch leases/dynvol-leader -n dynvol-system", True),
        ("dynvol-node", "patch leases/other -n dynvol-system", False),
        ("dynvol-node", "patch serviceaccounts/dynvol-webhook -n dynvol-system", False),
        ("dynvol-node", "patch clusterroles/dynvol-node", True),
        ("dynvol-node", "patch clusterroles/view", False),
        ("dynvol-node", "get namespaces/default", False),
    ],
)
async def test_an_account_may_do_what_it_needs_and_no_more(kubectl: Kubectl, account: str, question: str, answer: bool) -> None:
    user = f"--as=system:serviceaccount:{names.NAMESPACE}:{account}"
    status, said = await kubectl("auth", "can-i", *question.split(), user)
    assert (status == 0) is answer, said
