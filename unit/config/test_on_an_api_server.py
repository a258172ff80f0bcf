"""config/ on an API server: accepted as it is, refusing what it should, granting no more than it says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import yaml

from dynvol.api import names
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
    status, said = await tried(kubectl, "DynamicVolumeClaim", {**ACCEPTED["the least"], "nfsConfig": {"server": "x"}})
    assert status != 0
    assert 'unknown field "spec.nfsConfig"' in said


async def test_explain_reads_well(kubectl: Kubectl) -> None:
    said = await kubectl.ok("explain", "dvc.spec.mountpoint")
    assert "below the pod's volume root" in said
    assert "Example: /data" in said


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
    if not kubectl.real:
        pytest.skip("the project's own API server keeps admission policies and does not enforce them")
    for name in ("mine", "other"):
        metadata = {"name": name, "namespace": names.NAMESPACE, "annotations": {names.WANTED_ANNOTATION: "[]"}}
        spec = {"serviceAccountName": "dynvol-mount", "containers": [{"name": "mounter", "image": "x"}]}
        await kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    mount_pod = MountPod(await kubectl.account("dynvol-mount", namespace=names.NAMESPACE, pod="mine"))

    async def held() -> bool:
        """A policy takes a moment to be compiled; until then it denies nothing."""
        return (await mount_pod.annotate("other", "x=y"))[0] != 0

    await eventually(held)
    return mount_pod


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
        ("dynvol-node", "create pods -n default", False),
        ("dynvol-node", "delete pods -n default", False),
        ("dynvol-node", "patch nodes", False),
        ("dynvol-node", "patch dynamicvolumeclaims --subresource=status -n default", True),
        ("dynvol-node", "delete dynamicvolumeclaims -n default", False),
        ("dynvol-node", "patch leases/dynvol-leader -n dynvol-system", True),
        ("dynvol-node", "patch leases/other -n dynvol-system", False),
    ],
)
async def test_an_account_may_do_what_it_needs_and_no_more(kubectl: Kubectl, account: str, question: str, answer: bool) -> None:
    user = f"--as=system:serviceaccount:{names.NAMESPACE}:{account}"
    status, said = await kubectl("auth", "can-i", *question.split(), user)
    assert (status == 0) is answer, said
