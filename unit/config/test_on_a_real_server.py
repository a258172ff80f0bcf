"""config/ on a real kube-apiserver: accepted as it is, refusing what it should, granting no more than it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from dynvol.api import names
from e2e.grounds.envtest import ControlPlane, EnvTest, assets

from .bad_inputs import ACCEPTED, CLASSES_REFUSED, REFUSED
from .manifests import CONFIG

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(assets() is None, reason="no kube-apiserver: set KUBEBUILDER_ASSETS to a folder with it and etcd"),
]
API_VERSION = f"{names.GROUP}/{names.VERSION}"


async def kubectl(kubeconfig: Path, *arguments: str, given: str = "") -> tuple[int, str]:
    """Exit status, and what it said on both streams."""
    process = await asyncio.create_subprocess_exec(
        "kubectl",
        f"--kubeconfig={kubeconfig}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(kubeconfig.parent)},
    )
    output, _ = await process.communicate(given.encode())
    assert process.returncode is not None
    return process.returncode, output.decode()


async def ok(kubeconfig: Path, *arguments: str, given: str = "") -> str:
    status, said = await kubectl(kubeconfig, *arguments, given=given)
    assert status == 0, said
    return said


async def tried(plane: ControlPlane, kind: str, spec: dict[str, Any]) -> tuple[int, str]:
    obj = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    return await kubectl(plane.kubeconfig, "create", "--dry-run=server", "-f", "-", given=json.dumps(obj))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """With all of config/default installed, but for the webhook configurations: nobody answers here."""
    directory = assets()
    assert directory is not None
    async with EnvTest(directory, tmp_path_factory.mktemp("control-plane")) as started:
        await ok(started.kubeconfig, "apply", "-k", str(CONFIG / "default"))
        await ok(started.kubeconfig, "wait", "--for=condition=Established", "crd", "--all")
        for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
            await ok(started.kubeconfig, "delete", kind, "dynvol-webhook")
        yield started


async def test_all_of_it_can_be_applied_again(plane: ControlPlane) -> None:
    said = await ok(plane.kubeconfig, "apply", "--dry-run=server", "-k", str(CONFIG / "default"))
    changed = [line for line in said.splitlines() if line.endswith("configured (server dry run)")]
    # Pod disruption budgets are patched without effect: kubectl cannot merge their selectors.
    assert [line for line in changed if "poddisruptionbudget" not in line] == []


async def test_the_samples_are_accepted(plane: ControlPlane) -> None:
    await ok(plane.kubeconfig, "apply", "-k", str(CONFIG / "samples"))
    stored = await ok(plane.kubeconfig, "get", "dvc", "-n", "dynamic-volume-test", "externalvolume-s3-sample", "-o", "yaml")
    assert yaml.safe_load(stored)["spec"]["s3Config"]["pathStyle"] is True


@pytest.mark.parametrize("case", ACCEPTED)
async def test_a_good_claim_is_accepted(plane: ControlPlane, case: str) -> None:
    status, said = await tried(plane, "DynamicVolumeClaim", ACCEPTED[case])
    assert status == 0, said


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_claim_is_refused_in_words(plane: ControlPlane, case: str) -> None:
    spec, words = REFUSED[case]
    status, said = await tried(plane, "DynamicVolumeClaim", spec)
    assert status != 0
    assert words in said


@pytest.mark.parametrize("case", CLASSES_REFUSED)
async def test_a_bad_class_is_refused_in_words(plane: ControlPlane, case: str) -> None:
    spec, words = CLASSES_REFUSED[case]
    status, said = await tried(plane, "StorageProviderClass", spec)
    assert status != 0
    assert words in said


async def test_a_field_that_does_not_exist_is_refused_rather_than_dropped(plane: ControlPlane) -> None:
    status, said = await tried(plane, "DynamicVolumeClaim", {**ACCEPTED["the least"], "nfsConfig": {"server": "x"}})
    assert status != 0
    assert 'unknown field "spec.nfsConfig"' in said


async def test_explain_reads_well(plane: ControlPlane) -> None:
    said = await ok(plane.kubeconfig, "explain", "dvc.spec.mountpoint")
    assert "below the pod's volume root" in said
    assert "Example: /data" in said


@dataclass(frozen=True)
class Caller:
    """A service account with a token that is bound to a pod."""

    kubeconfig: Path

    async def annotate(self, pod: str, annotation: str) -> tuple[int, str]:
        return await kubectl(self.kubeconfig, "annotate", "--overwrite", "pod", "-n", names.NAMESPACE, pod, annotation)

    async def merge(self, pod: str, patch: dict[str, Any]) -> tuple[int, str]:
        arguments = ("patch", "pod", "-n", names.NAMESPACE, pod, "--type=merge", f"--patch={json.dumps(patch)}")
        return await kubectl(self.kubeconfig, *arguments)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mount_pod(plane: ControlPlane) -> Caller:
    """The account of mount pods, as the pod `mine` has it; there is another, `other`."""
    for name in ("mine", "other"):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": names.NAMESPACE, "annotations": {names.WANTED_ANNOTATION: "[]"}},
            "spec": {"serviceAccountName": "dynvol-mount", "containers": [{"name": "mounter", "image": "x"}]},
        }
        await ok(plane.kubeconfig, "apply", "-f", "-", given=json.dumps(pod))
    bound = ("--bound-object-kind=Pod", "--bound-object-name=mine")
    token = await ok(plane.kubeconfig, "create", "token", "dynvol-mount", "-n", names.NAMESPACE, *bound)
    config = json.loads(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token.strip()}
    path = plane.state_dir / "mount-pod.kubeconfig"
    path.write_text(json.dumps(config))
    caller = Caller(path)
    async with asyncio.timeout(30):
        # The policy takes a moment to be compiled; until then it denies nothing.
        while (await caller.annotate("other", "x=y"))[0] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    return caller


REPORT = f"{names.REPORT_ANNOTATION}=[]"


async def test_a_mount_pod_reports_on_itself(mount_pod: Caller) -> None:
    status, said = await mount_pod.annotate("mine", REPORT)
    assert status == 0, said


async def test_a_mount_pod_reports_on_no_other(mount_pod: Caller) -> None:
    status, said = await mount_pod.annotate("other", REPORT)
    assert status != 0
    assert "may patch no pod but itself" in said


@pytest.mark.parametrize("annotation", [f"{names.WANTED_ANNOTATION}=[1]", f"{names.WANTED_ANNOTATION}-", "x=y"])
async def test_a_mount_pod_changes_no_other_annotation_of_itself(mount_pod: Caller, annotation: str) -> None:
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
async def test_a_mount_pod_changes_nothing_else_of_itself(mount_pod: Caller, patch: dict[str, Any]) -> None:
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
async def test_an_account_may_do_what_it_needs_and_no_more(plane: ControlPlane, account: str, question: str, answer: bool) -> None:
    user = f"--as=system:serviceaccount:{names.NAMESPACE}:{account}"
    status, said = await kubectl(plane.kubeconfig, "auth", "can-i", *question.split(), user)
    assert (status == 0) is answer, said
