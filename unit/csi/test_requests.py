from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.csi.errors import InvalidRequest, NotPublished
from dynvol.csi.proto.csi import v1 as csi
from dynvol.csi.requests import inspection, publication, target, unpublication
from dynvol.rpc.redaction import redacted
from unit.csi.wishes import (
    OTHER_UID,
    POD_UID,
    VOLUME,
    context,
    filesystem,
    node,
    publish_request,
    stats_request,
    target_path,
    unpublish_request,
)


def _with(**changes: object) -> csi.NodePublishVolumeRequest:
    request = publish_request()
    for field, value in changes.items():
        setattr(request, field, value)
    return request


def test_a_request_says_which_directory_shows_where() -> None:
    wanted = publication(publish_request(), node=node())
    assert wanted.volume == VOLUME
    assert wanted.pod == "team-a/notebook-0"
    assert wanted.target.path == PurePosixPath(target_path())
    assert wanted.root.parent == PurePosixPath("/var/lib/dynamic/xvols/s3-sample")
    assert wanted.directory == wanted.root / POD_UID


def test_equal_requests_are_equal_wishes() -> None:
    assert publication(publish_request(), node=node()) == publication(publish_request(), node=node())


def test_pods_of_a_shared_class_share_a_root_and_have_directories_of_their_own() -> None:
    shared = [
        publication(
            _with(volume_context=context(pod_uid=uid, mountPodDispatchPolicy="shared"), target_path=target_path(pod_uid=uid)),
            node=node(),
        )
        for uid in (POD_UID, OTHER_UID)
    ]
    assert shared[0].root == shared[1].root
    assert shared[0].directory != shared[1].directory


def test_independent_is_the_policy_of_a_volume_that_names_none() -> None:
    assert publication(_with(volume_context=context(mountPodDispatchPolicy="")), node=node()) == publication(
        publish_request(), node=node()
    )


def test_a_pod_that_asks_for_a_writable_root_gets_the_same_as_any_other() -> None:
    assert publication(_with(readonly=False), node=node()) == publication(publish_request(), node=node())


@pytest.mark.parametrize("mode", [csi.VolumeCapabilityAccessModeMode(number) for number in range(8)])
def test_any_access_mode_will_do(mode: csi.VolumeCapabilityAccessModeMode) -> None:
    capability = filesystem()
    capability.access_mode = csi.VolumeCapabilityAccessMode(mode=mode)
    publication(_with(volume_capability=capability), node=node())


def test_a_static_pods_uid_is_a_hash() -> None:
    uid = "3c5d9f2b1a7e4860b1d2c3e4f5061728"
    publication(_with(volume_context=context(pod_uid=uid), target_path=target_path(pod_uid=uid)), node=node())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"volume_id": ""}, "volume_id is missing"),
        ({"volume_id": "v" * 129}, "longer than 128 bytes"),
        ({"target_path": ""}, "target_path is missing"),
        ({"volume_capability": None}, "volume_capability is missing"),
        ({"volume_capability": csi.VolumeCapability(block=csi.VolumeCapabilityBlockVolume())}, "not block devices"),
        ({"volume_capability": csi.VolumeCapability()}, "must be a mount"),
        ({"volume_capability": filesystem("noexec", "suid")}, "mount flags (noexec, suid)"),
    ],
)
def test_what_is_missing_or_not_supported_is_named(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        publication(_with(**changes), node=node())
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("csi.storage.k8s.io/ephemeral", "", "spec.volumes[].csi"),
        ("csi.storage.k8s.io/ephemeral", "false", "PersistentVolume"),
        ("csi.storage.k8s.io/pod.uid", "", "podInfoOnMount: true"),
        ("csi.storage.k8s.io/pod.uid", "../../etc", "the uid of a pod"),
        ("csi.storage.k8s.io/pod.uid", "..", "the uid of a pod"),
        ("csi.storage.k8s.io/pod.namespace", "", "podInfoOnMount: true"),
        ("csi.storage.k8s.io/pod.namespace", "Team/A", "the name of a namespace"),
        ("csi.storage.k8s.io/pod.name", "a..b", "the name of a pod"),
        ("csi.storage.k8s.io/pod.name", "p" * 254, "the name of a pod"),
        ("storageProviderClass", "", "volumeAttributes"),
        ("storageProviderClass", "../s3", "the name of a StorageProviderClass"),
        ("storageProviderClass", ".", "the name of a StorageProviderClass"),
        ("storageProviderClass", "s3\n", "the name of a StorageProviderClass"),
        ("storageProviderClass", "S3", "the name of a StorageProviderClass"),
        ("storageProviderClass", "s3/../../etc", "the name of a StorageProviderClass"),
        ("storageProviderClass", "é", "the name of a StorageProviderClass"),
        ("mountPodDispatchPolicy", "Shared", "independent or shared"),
    ],
)
def test_an_attribute_that_cannot_be_used_is_refused_in_words(key: str, value: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        publication(_with(volume_context=context(**{key: value})), node=node())
    assert says in str(refusal.value)


def test_a_target_of_another_pod_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="belongs to pod"):
        publication(_with(target_path=target_path(pod_uid=OTHER_UID)), node=node())


@pytest.mark.parametrize(
    "path",
    [
        "pods/x",
        "/",
        "/etc",
        "/var/lib/kubelet",
        "/var/lib/kubelet/pods",
        f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi",
        f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~secret/token/mount",
        f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/v/../../../../../../../etc",
        f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/v//mount",
        f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/v/mount/",
        f"//var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/v/mount",
        f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/v\0/mount",
        f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/{'v' * 256}/mount",
        f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/{'v/' * 2048}mount",
        "/var/lib/kubelet/pods/-/volumes/kubernetes.io~csi/v/mount",
        f"/var/lib/kubelet2/pods/{POD_UID}/volumes/kubernetes.io~csi/v/mount",
        f"/srv/a/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi/v/mount",
    ],
)
def test_a_path_that_is_not_one_of_kubelets_targets_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest):
        target(path, node=node())
    with pytest.raises(InvalidRequest):
        unpublication(csi.NodeUnpublishVolumeRequest(volume_id=VOLUME, target_path=path), node=node())


@given(st.text(alphabet=st.sampled_from("/.ab~\0é "), max_size=30))
def test_no_text_leads_out_of_kubelets_targets(tail: str) -> None:
    directory = f"/var/lib/kubelet/pods/{POD_UID}/volumes/kubernetes.io~csi"
    try:
        accepted = target(f"{directory}/{tail}", node=node())
    except InvalidRequest:
        return
    assert accepted.path.is_relative_to(directory)
    assert accepted.path != PurePosixPath(directory)
    assert ".." not in accepted.path.parts


def test_kubelets_directory_is_a_setting() -> None:
    elsewhere = node("/data/k")
    assert target(target_path("/data/k"), node=elsewhere).pod_uid == POD_UID
    with pytest.raises(InvalidRequest, match="--kubelet-dir"):
        target(target_path(), node=elsewhere)


def test_stats_of_a_path_where_no_volume_can_be_find_no_volume() -> None:
    request = stats_request()
    request.volume_path = "some/path"
    with pytest.raises(NotPublished):
        inspection(request, node=node())


@pytest.mark.parametrize("field", ["volume_id", "volume_path"])
def test_stats_need_a_volume_and_a_path(field: str) -> None:
    request = stats_request()
    setattr(request, field, "")
    with pytest.raises(InvalidRequest, match=f"{field} is missing"):
        inspection(request, node=node())


def test_unpublishing_needs_nothing_but_volume_and_target() -> None:
    volume, where = unpublication(unpublish_request(), node=node())
    assert (volume, str(where.path), where.pod_uid) == (VOLUME, target_path(), POD_UID)


def test_nothing_secret_is_in_what_may_be_logged() -> None:
    request = _with(secrets={"access-key-id": "AKIA-hidden"}, publish_context={"session-token": "hidden too"})
    request.volume_context["csi.storage.k8s.io/serviceAccount.tokens"] = '{"": {"token": "hidden as well"}}'
    logged = repr(redacted(request))
    assert "hidden" not in logged
    assert "s3-sample" in logged
    assert VOLUME in logged


def test_wishes_and_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(publication(publish_request(), node=node()), "volume", "another")  # noqa: B010
