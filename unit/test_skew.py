"""Node processes and mount pods of different versions understand each other, as config/README.md promises.

What is frozen here is what a version that is out in clusters has written, and what it expects to read. A test that fails because of
it tells that an upgrade would unmount, or lose sight of, what is mounted: the change has to be made in another way.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim, S3Config
from dynvol.api.core import Pod, SecurityContext
from dynvol.api.identity import Workload
from dynvol.api.mounts import MountReport, Phase, WantedMount, decode_reports, decode_wanted, encode
from dynvol.controllers.desired import attachments, wanted_mounts
from dynvol.controllers.status import Serving, Standing, standing
from dynvol.controllers.view import NodeView
from dynvol.mounter import decide
from unit.controllers.objects import claim, pod, provider_class, running, volume

PLAIN = (
    '[{"claim":"apps/data","claimUid":"uid-data","podUid":"uid-web-1","path":"uid-web-1/data","provider":"s3",'
    '"specHash":"7709a0de4d64","parameters":{"bucket":"bucket","endpoint":"http://s3","pathStyle":"true"}}]'
)
FULL = (
    '[{"claim":"apps/full","claimUid":"uid-full","podUid":"uid-web-1","path":"uid-web-1/deep/er","provider":"s3",'
    '"specHash":"52244c224efa","readOnly":true,"parameters":{"bucket":"b","endpoint":"https://s3.example.com","gid":"2",'
    '"mounter":"rclone","options":"vfs-cache-max-size=1G","pathStyle":"false","prefix":"a/b","region":"eu-1","uid":"1",'
    '"umask":"0077"}}]'
)
REPORT = (
    '[{"claimUid":"uid-data","podUid":"uid-web-1","path":"uid-web-1/data","specHash":"7709a0de4d64","phase":"Failed",'
    '"reason":"NoSuchBucket","message":"make it","time":"2026-01-01T00:00:00Z","restarts":2}]'
)


def full_claim() -> DynamicVolumeClaim:
    s3 = S3Config(bucket="b", endpoint="https://s3.example.com", prefix="a/b", region="eu-1", path_style=False)
    made = claim("full", mountpoint="/deep/er", s3=s3, uid=1, gid=2, umask="0077")
    return msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, read_only=True))


NAMED = {"storage_provider_secret_name": "s", "storage_provider_secret_namespace": "n"}


def told_of(made: DynamicVolumeClaim, *, context: SecurityContext, **parameters: str) -> str:
    classes = {"s3-sample": provider_class(**NAMED, **parameters)}
    return encode(wanted_mounts(attachments(pod(security=context), [made], classes), classes, ()))


def test_a_mount_pod_of_an_earlier_version_is_told_what_it_was_told_before() -> None:
    """Another hash for the same claim would make it unmount, and mount anew, under programs that have files open."""
    assert told_of(claim("data"), context=SecurityContext()) == PLAIN
    as_user = SecurityContext(run_as_user=1000, fs_group=2000)
    assert told_of(full_claim(), context=as_user, mounter="rclone", mount_options="vfs-cache-max-size=1G") == FULL


def test_pods_that_share_are_told_what_they_were_told_before_and_by_the_way_whose_client_is_theirs() -> None:
    """An earlier version leaves that out: it serves each claim by a client of its own, under the claim's name, and is believed."""
    classes = {"s3-sample": provider_class(**NAMED)}
    shared = attachments(pod(volumes=(volume(policy="shared"),)), [claim("data")], classes)
    (wanted,) = wanted_mounts(shared, classes, ())
    told = json.loads(encode([wanted]))
    assert told[0].pop("client")
    assert [told[0][key] for key in ("claimUid", "specHash", "path")] == ["uid-data", "7649c4782955", "uid-web-1/data"]
    (earlier,) = decode_wanted(json.dumps(told))
    assert earlier.source == wanted.claims_source == "dynvol-uid-data-7649c4782955"
    node = SimpleNamespace(mounts=SimpleNamespace(source_at={PurePosixPath("/root/uid-web-1/data"): earlier.source}.get))
    assert NodeView.is_mounted(cast(NodeView, node), wanted, root=PurePosixPath("/root"))


def test_what_earlier_versions_wrote_is_read() -> None:
    (wanted,) = decode_wanted(FULL)
    assert (wanted.source, wanted.read_only, wanted.parameters["mounter"]) == ("dynvol-uid-full-52244c224efa", True, "rclone")
    (report,) = decode_reports(REPORT)
    assert (report.phase, report.reason, report.message, report.restarts) == (Phase.FAILED, "NoSuchBucket", "make it", 2)
    assert encode([report]) == REPORT


@pytest.mark.parametrize(
    ("policy", "uuid"),
    [("independent", "a03a5b14-b571-54cc-82cf-80ef7b3d3ca1"), ("shared", "93981e78-173b-5be9-ad6c-d0b6ac670f6c")],
)
def test_mount_pods_and_directories_are_found_under_the_names_that_earlier_versions_gave_them(policy: str, uuid: str) -> None:
    workload = Workload.of(node="node-a", namespace="apps", provider_class="s3-sample", policy=policy, pod_uid="uid-web-1")
    assert workload.mount_pod == f"dynvol-mount-{uuid}"
    assert str(workload.directory("/var/lib/dynamic", pod_uid="uid-web-1")) == f"/var/lib/dynamic/xvols/s3-sample/{uuid}/uid-web-1"
    assert Workload.from_annotation(workload.annotation, node="node-a") == workload


def test_the_keys_by_which_both_sides_find_each_other_stay() -> None:
    group = "dynamicvolume.csi.cloudnative101.net"
    assert (f"{group}/wanted-mounts", f"{group}/mount-report") == (names.WANTED_ANNOTATION, names.REPORT_ANNOTATION)
    assert (f"{group}/workload", f"{group}/release") == (names.WORKLOAD_ANNOTATION, names.RELEASE_ANNOTATION)
    assert f"{group}/overdue-pods" == names.OVERDUE_ANNOTATION
    assert (f"{group}/mount-pod", f"{group}/node") == (names.MOUNT_POD_LABEL, names.NODE_LABEL)
    assert (f"{group}/mounted", f"{group}/in-use") == (names.CLAIM_FINALIZER, names.CLASS_FINALIZER)


def with_more(text: str, **fields: object) -> str:
    """As a newer version would write it."""
    return json.dumps([{**entry, **fields} for entry in json.loads(text)])


def test_fields_that_a_version_does_not_know_are_ignored_by_either_side() -> None:
    assert decode_wanted(with_more(PLAIN, priority=5, hints={"a": ["b"]})) == decode_wanted(PLAIN)
    assert decode_reports(with_more(REPORT, bytesUnflushed=12)) == decode_reports(REPORT)


def test_only_what_identifies_a_mount_must_be_said() -> None:
    identity = {"claimUid": "c", "podUid": "p", "path": "p/data", "specHash": "h"}
    (report,) = decode_reports(json.dumps([{**identity, "phase": "Mounted"}]))
    assert (report.phase, report.reason, report.restarts) == (Phase.MOUNTED, "", 0)
    (wanted,) = decode_wanted(json.dumps([{**identity, "claim": "ns/c", "provider": "s3"}]))
    assert (wanted.read_only, wanted.parameters) == (False, {})


def test_a_phase_that_this_version_does_not_know_is_neither_mounted_nor_refused() -> None:
    (wanted,) = decode_wanted(PLAIN)
    newer = with_more(REPORT, phase="Verifying", reason="ReadingBack", message="reading a sample back")
    other = json.loads(with_more(REPORT, path="uid-web-1/other", claimUid="uid-other", phase="Mounted"))
    reports = decode_reports(json.dumps([*json.loads(newer), *other]))
    assert [report.phase for report in reports] == [Phase.MOUNTING, Phase.MOUNTED], "and it takes no other entry along"

    serving = Serving("mount-pod", pod=_running_mount_pod(), reports={report.path: report for report in reports})
    found = standing(wanted, serving, told=True, waits=False, in_table=lambda _: True)
    assert found == Standing(Phase.MOUNTING, "ReadingBack", "reading a sample back")


def _running_mount_pod() -> Pod:
    return msgspec.structs.replace(pod(), status=msgspec.structs.replace(pod().status, container_statuses=running()))


def test_a_mount_pod_does_what_it_knows_and_says_of_the_rest_that_it_is_too_old() -> None:
    """To mount something without what it does not know of (its encryption, say) would be to mount something else."""
    (known,) = decode_wanted(PLAIN)
    strange = msgspec.structs.replace(known, claim_uid="strange", path="uid-web-1/strange", provider="tape")
    parameters = {**known.parameters, "encryption": "kms"}
    newer = msgspec.structs.replace(known, claim_uid="newer", path="uid-web-1/newer", parameters=parameters)
    refused = {report.claim_uid: report for report in decide.refusals([known, strange, newer]).values()}
    assert refused.keys() == {"strange", "newer"}
    assert 'no storage provider "tape"' in refused["strange"].message
    assert "encryption" in refused["newer"].message and "older than the node process" in refused["newer"].message


def test_a_mount_pod_that_reports_what_nobody_asked_for_blocks_only_that_path() -> None:
    (stranger,) = decode_reports(with_more(REPORT, path="uid-web-1/elsewhere", claimUid="uid-elsewhere", phase="Draining"))
    classes = {"s3-sample": provider_class(**NAMED)}
    mine = attachments(pod(), [claim("data")], classes)
    assert encode(wanted_mounts(mine, classes, [stranger])) == PLAIN
    at_the_same_path = msgspec.structs.replace(stranger, path="uid-web-1/data")
    assert wanted_mounts(mine, classes, [at_the_same_path]) == ()


def test_no_field_that_is_added_is_required() -> None:
    """What earlier versions write lacks it."""
    required = {"claim", "claim_uid", "pod_uid", "path", "provider", "spec_hash"}
    assert {f.name for f in msgspec.structs.fields(WantedMount) if f.required} == required
    assert {f.name for f in msgspec.structs.fields(MountReport) if f.required} == (required - {"claim", "provider"}) | {"phase"}
