from __future__ import annotations

import msgspec
import pytest

from dynvol.api.claim import DynamicVolumeClaim, PodMount
from dynvol.api.core import ContainerState, ContainerStatus, Pod, PodCondition, PodStatus, Secret, TerminatedState, WaitingState
from dynvol.api.meta import Condition
from dynvol.api.mounts import MountReport, Phase, WantedMount
from dynvol.controllers.desired import attachments, wanted_mount
from dynvol.controllers.status import (
    Problem,
    Serving,
    Standing,
    claim_status,
    class_status,
    missing_credentials,
    missing_in_own_secret,
    standing,
)

from .objects import CLASSES, NODE, claim, pod, provider_class, running

AT = "2026-02-02T02:02:02Z"
ATTACHMENT = attachments(pod(), [claim()], CLASSES)[0]
WANTED = wanted_mount(ATTACHMENT, CLASSES["s3-sample"])


def mount_pod(**status: object) -> Pod:
    defaults: dict[str, object] = {"phase": "Running", "container_statuses": running()}
    return msgspec.structs.replace(pod("mount-pod"), status=PodStatus(**(defaults | status)))  # type: ignore[arg-type]


def report(phase: Phase = Phase.MOUNTED, *, spec_hash: str = WANTED.spec_hash, reason: str = "", message: str = "") -> MountReport:
    return MountReport(
        claim_uid=WANTED.claim_uid,
        pod_uid=WANTED.pod_uid,
        path=WANTED.path,
        spec_hash=spec_hash,
        phase=phase,
        reason=reason,
        message=message,
    )


def stands(serving: Serving, *, in_table: bool = True, told: bool = True, waits: bool = False) -> Standing:
    def shown(wanted: WantedMount) -> bool:
        return in_table

    return standing(WANTED, serving, told=told, waits=waits, in_table=shown)


def serving(mounter: Pod | None, *reports: MountReport, problem: Problem | None = None) -> Serving:
    return Serving("mount-pod", mounter, {r.path: r for r in reports}, problem)


def test_what_a_mount_pod_was_told_and_shows_is_mounted_before_it_says_so() -> None:
    assert stands(serving(mount_pod())).phase == Phase.MOUNTED
    assert stands(serving(mount_pod()), in_table=False).phase == Phase.MOUNTING
    assert stands(serving(mount_pod()), told=False).phase == Phase.MOUNTING
    assert stands(serving(mount_pod(container_statuses=()))).phase == Phase.PENDING
    assert stands(serving(mount_pod(), report(Phase.FAILED, reason="ClientExited"))).phase == Phase.FAILED


def test_mounted_needs_a_running_container_the_mount_table_and_no_other_word() -> None:
    assert stands(serving(mount_pod(), report())).phase == Phase.MOUNTED
    assert stands(serving(mount_pod(), report()), in_table=False).phase == Phase.MOUNTING
    assert stands(serving(mount_pod(container_statuses=()), report())).phase == Phase.PENDING
    assert stands(serving(mount_pod(), report(spec_hash="older"))).phase == Phase.MOUNTING


def test_what_the_mounter_says_went_wrong_is_passed_on() -> None:
    failed = report(Phase.FAILED, reason="NoSuchBucket", message="bucket x does not exist")
    assert stands(serving(mount_pod(), failed)) == Standing(Phase.FAILED, "NoSuchBucket", "bucket x does not exist")


def test_a_problem_of_the_workload_does_not_hide_a_mount_that_works() -> None:
    problem = Problem("SecretNotFound", "gone")
    assert stands(serving(mount_pod(), report(), problem=problem)).phase == Phase.MOUNTED
    assert stands(serving(None, problem=problem)).reason == "SecretNotFound"


def test_an_unschedulable_mount_pod_is_explained_in_words() -> None:
    condition = PodCondition(type="PodScheduled", status="False", reason="Unschedulable", message="0/1 nodes: insufficient cpu")
    standing = stands(serving(mount_pod(phase="Pending", container_statuses=(), conditions=(condition,))))
    assert standing.reason == "MountPodUnschedulable"
    assert "insufficient cpu" in standing.message


def test_a_mounter_that_ran_out_of_memory_is_named_so() -> None:
    state = ContainerState(waiting=WaitingState(reason="CrashLoopBackOff", message="back-off 10s"))
    last = ContainerState(terminated=TerminatedState(exit_code=137, reason="OOMKilled"))
    status = ContainerStatus(name="mounter", restart_count=3, state=state, last_state=last)
    standing = stands(serving(mount_pod(container_statuses=(status,))))
    assert (standing.phase, standing.reason) == (Phase.FAILED, "OOMKilled")


def entry(name: str = "web-1", phase: Phase = Phase.MOUNTED, *, generation: int = 1, **more: str) -> PodMount:
    return PodMount(uid=f"uid-{name}", pod=name, node=NODE, phase=phase.value, observed_generation=generation, **more)


def summed(subject: DynamicVolumeClaim, *pods: Pod, leaving: frozenset[str] = frozenset()) -> tuple[str, dict[str, Condition]]:
    status = claim_status(subject, pods=pods, leaving=leaving, classes=CLASSES, at=AT)
    return status.summary, {c.type: c for c in status.conditions}


def test_a_claim_is_ready_when_every_pod_that_it_reaches_has_the_mount() -> None:
    summary, conditions = summed(claim(pods=(entry("a"), entry("b"))), pod("a"), pod("b"))
    assert (summary, conditions["Ready"].status, conditions["Accepted"].status) == ("2/2", "True", "True")


def test_a_pod_whose_node_has_not_spoken_yet_keeps_a_claim_from_being_ready() -> None:
    summary, conditions = summed(claim(pods=(entry("a"),)), pod("a"), pod("b"))
    assert (summary, conditions["Ready"].status, conditions["Ready"].reason) == ("1/2", "False", "Progressing")


def test_a_mount_of_an_older_generation_does_not_make_a_claim_ready() -> None:
    _, conditions = summed(claim(generation=2, pods=(entry("a", generation=1),)), pod("a"))
    assert conditions["Ready"].reason == "Progressing"


def test_a_claim_without_pods_is_not_ready_and_says_why() -> None:
    summary, conditions = summed(claim())
    assert (summary, conditions["Ready"].reason) == ("0/0", "NoMatchingPods")


def test_terminating_pods_count_no_longer() -> None:
    summary, conditions = summed(claim(pods=(entry("a"), entry("b"))), pod("a"), leaving=frozenset({"uid-b"}))
    assert (summary, conditions["Ready"].status) == ("1/1", "True")


def test_a_failure_shows_its_reason_and_names_a_pod() -> None:
    failed = entry("b", Phase.FAILED, reason="AccessDenied", message="the key was refused")
    summary, conditions = summed(claim(pods=(entry("a"), failed)), pod("a"), pod("b"))
    assert (summary, conditions["Ready"].reason) == ("1/2", "AccessDenied")
    assert "pod b: the key was refused" in conditions["Ready"].message


def test_what_holds_up_a_mount_is_told_while_it_is_not_a_failure_yet() -> None:
    slow = entry("a", Phase.MOUNTING, reason="EndpointTimeout", message="it does not answer")
    usual = entry("b", Phase.PENDING, reason="MountPodStarting", message="mount pod x is starting")
    _, conditions = summed(claim(pods=(slow, usual)), pod("a"), pod("b"))
    assert conditions["Ready"].reason == "Progressing"
    assert conditions["Ready"].message == "0 of 2 pods have the mount as specified; pod a: it does not answer"


def test_a_conflict_shows_in_both_conditions() -> None:
    lost = entry("a", Phase.CONFLICT, reason="MountpointConflict", message="overlaps the older claim first")
    _, conditions = summed(claim(pods=(lost,)), pod("a"))
    assert {c.reason for c in conditions.values()} == {"MountpointConflict"}
    assert "older claim first" in conditions["Accepted"].message


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (claim(provider_class="nowhere"), "ClassNotFound"),
        (
            msgspec.structs.replace(
                claim(), spec=msgspec.structs.replace(claim().spec, storage_provider="nfs", storage_provider_class="s3-sample")
            ),
            "ProviderMismatch",
        ),
        (claim(s3=None), "NoProvider"),
    ],
)
def test_a_claim_that_cannot_work_is_not_accepted(subject: DynamicVolumeClaim, reason: str) -> None:
    _, conditions = summed(subject)
    assert (conditions["Accepted"].status, conditions["Accepted"].reason) == ("False", reason)


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    early = "2026-01-01T00:00:00Z"
    ready = Condition(type="Ready", status="False", reason="Progressing", last_transition_time=early)
    before = msgspec.structs.replace(claim().status, conditions=(ready,))
    _, conditions = summed(msgspec.structs.replace(claim(), status=before))
    assert conditions["Ready"].last_transition_time == early
    assert conditions["Accepted"].last_transition_time == AT


def test_a_class_that_is_deleted_while_used_says_who_uses_it() -> None:
    subject = provider_class()
    leaving = msgspec.structs.replace(subject, metadata=msgspec.structs.replace(subject.metadata, deletion_timestamp=AT))
    status = class_status(leaving, pods=[pod("a")], mount_pods=1, problems=[], warnings=[], credentials=None, digest="1234", at=AT)
    terminating = next(c for c in status.conditions if c.type == "Terminating")
    assert "apps/a" in terminating.message and "1 mount pods" in terminating.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "SecretNotFound"),
        ({}, "SecretKeyMissing"),
        ({"access-key-id": b"a"}, "SecretKeyMissing"),
        ({"access-key-id": b"a", "secret-access-key": b"b"}, None),
    ],
)
def test_what_a_secret_lacks_is_named(data: dict[str, bytes] | None, reason: str | None) -> None:
    named = provider_class(storage_provider_secret_name="s", storage_provider_secret_namespace="default")
    problem = missing_credentials(named, data)
    assert (problem.reason if problem else None) == reason
    half = provider_class(storage_provider_secret_name="s")
    assert (missing_credentials(half, data) or Problem("", "")).reason == "SecretNotNamed"


def test_a_class_of_public_storage_needs_no_secret_and_says_so() -> None:
    assert missing_credentials(provider_class(), None) is None
    status = class_status(provider_class(), pods=[], mount_pods=0, problems=[], warnings=[], credentials=None, digest="1234", at=AT)
    said = {c.type: (c.status, c.reason) for c in status.conditions}
    assert said["CredentialsAvailable"] == ("True", "NotNeeded")
    assert said["Ready"][0] == "True"


def test_a_secret_that_opens_the_cluster_is_no_credential_for_storage() -> None:
    keys = {"access-key-id": b"a", "secret-access-key": b"b"}
    token = Secret(data=keys, type="kubernetes.io/service-account-token")
    assert (missing_in_own_secret(provider_class(), token, place="apps/s") or Problem("", "")).reason == "SecretRefused"
    assert missing_in_own_secret(provider_class(), Secret(data=keys), place="apps/s") is None
    missing = missing_in_own_secret(provider_class(), None, place="apps/s") or Problem("", "")
    assert (missing.reason, "apps/s" in missing.message) == ("SecretNotFound", True)
