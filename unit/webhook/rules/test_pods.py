"""Injection, on pods as users write them. What is looked at is the pod that comes out, not the patch that makes it."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvol.api import names
from dynvol.api.meta import ObjectMeta
from dynvol.api.providerclass import ClassSpec, StorageProviderClass
from dynvol.webhook.rules.admitted import AdmittedPod
from dynvol.webhook.rules.pods import review_pod
from dynvol.webhook.rules.verdict import Operation, Verdict

Pod = dict[str, Any]
CLASS, ROOT = names.CLASS_ANNOTATION, names.ROOT_ANNOTATION
ASKED = {CLASS: "s3-sample", ROOT: "/buckets"}
VOLUME = {
    "name": "dynamic-volume-root-path",
    "csi": {
        "driver": "dynamicvolume.csi.cloudnative101.net",
        "readOnly": True,
        "volumeAttributes": {"mountPodDispatchPolicy": "independent", "storageProviderClass": "s3-sample"},
    },
}
MOUNT = {"name": "dynamic-volume-root-path", "mountPath": "/buckets", "mountPropagation": "HostToContainer"}


def pod(annotations: dict[str, str] | None = None, *, labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    metadata: dict[str, Any] = {"name": "app", "creationTimestamp": None}
    if annotations is not None:
        metadata["annotations"] = annotations
    if labels is not None:
        metadata["labels"] = labels
    return {"metadata": metadata, "spec": {"containers": [{"name": "app", "image": "busybox"}], **spec}}


def provider_class(name: str, **parameters: str) -> StorageProviderClass:
    keyed = {f"{names.GROUP}/{key.replace('_', '-')}": value for key, value in parameters.items()}
    return StorageProviderClass(metadata=ObjectMeta(name=name), spec=ClassSpec(provider="s3", parameters=keyed))


def review(
    given: Pod, *, defaults: dict[str, str] | None = None, classes: dict[str, StorageProviderClass] | None = None
) -> Verdict:
    decoded = msgspec.json.decode(msgspec.json.encode(given), type=AdmittedPod)
    known = {"s3-sample": provider_class("s3-sample"), "other": provider_class("other")} if classes is None else classes
    return review_pod(decoded, namespace="apps", defaults=defaults or {}, classes=known)


def admitted(given: Pod, **view: Any) -> Pod:
    verdict = review(given, **view)
    assert verdict.allowed, verdict.problems
    return patched(given, verdict.patch)


def patched(given: Pod, patch: tuple[Operation, ...]) -> Pod:
    """RFC 6902 `add`, which refuses what an API server would refuse."""
    result = copy.deepcopy(given)
    for operation in patch:
        *way, last = (part.replace("~1", "/").replace("~0", "~") for part in operation.path.removeprefix("/").split("/"))
        target: Any = result
        for part in way:
            target = target[int(part)] if isinstance(target, list) else target[part]
        if isinstance(target, list):
            target.insert(len(target) if last == "-" else int(last), operation.value)
        else:
            target[last] = operation.value
    return result


def test_an_annotated_pod_gets_exactly_what_the_contract_shows() -> None:
    result = admitted(pod(ASKED))
    assert result["spec"]["volumes"] == [VOLUME]
    assert result["spec"]["containers"][0]["volumeMounts"] == [MOUNT]
    assert result["metadata"]["labels"] == {names.INJECTED_LABEL: "true"}


def test_what_the_pod_had_before_is_all_still_there() -> None:
    given = pod(
        ASKED,
        labels={"app": "x"},
        volumes=[{"name": "home", "emptyDir": {}}],
        containers=[{"name": "app", "volumeMounts": [{"name": "home", "mountPath": "/home"}]}],
        futureField={"kept": True},
    )
    result = admitted(given)
    assert result["spec"]["volumes"] == [{"name": "home", "emptyDir": {}}, VOLUME]
    assert result["spec"]["containers"][0]["volumeMounts"] == [{"name": "home", "mountPath": "/home"}, MOUNT]
    assert result["spec"]["futureField"] == {"kept": True}
    assert result["metadata"]["labels"] == {"app": "x", names.INJECTED_LABEL: "true"}


def test_a_pod_that_asks_for_nothing_is_left_alone() -> None:
    given = pod()
    assert admitted(given) == given


def test_init_containers_and_native_sidecars_see_the_volume_too() -> None:
    init = [{"name": "prepare"}, {"name": "proxy", "restartPolicy": "Always", "volumeMounts": []}]
    result = admitted(pod(ASKED, initContainers=init))
    assert [c["volumeMounts"] for c in result["spec"]["initContainers"]] == [[MOUNT], [MOUNT]]


def test_a_second_review_changes_nothing() -> None:
    once = admitted(pod(ASKED, initContainers=[{"name": "prepare"}]))
    assert review(once).patch == ()


def test_a_sidecar_that_was_added_in_between_gets_the_mount_and_nothing_else_changes() -> None:
    once = admitted(pod(ASKED))
    once["spec"]["containers"].append({"name": "late"})
    twice = admitted(once)
    assert twice["spec"]["containers"][1]["volumeMounts"] == [MOUNT]
    assert twice["spec"]["volumes"] == [VOLUME]


def test_only_the_containers_that_are_named_see_the_volume() -> None:
    containers = [{"name": "app"}, {"name": "helper"}]
    result = admitted(pod({**ASKED, names.CONTAINERS_ANNOTATION: "helper"}, containers=containers))
    assert "volumeMounts" not in result["spec"]["containers"][0]
    assert result["spec"]["containers"][1]["volumeMounts"] == [MOUNT]


def test_several_classes_get_a_volume_and_a_root_each() -> None:
    result = admitted(pod({CLASS: "s3-sample, other", ROOT: "/a,/b", names.POLICY_ANNOTATION: "shared,independent"}))
    volumes = result["spec"]["volumes"]
    assert [v["name"] for v in volumes] == ["dynamic-volume-root-path", "dynamic-volume-root-path-1"]
    assert [v["csi"]["volumeAttributes"] for v in volumes] == [
        {"mountPodDispatchPolicy": "shared", "storageProviderClass": "s3-sample"},
        {"mountPodDispatchPolicy": "independent", "storageProviderClass": "other"},
    ]
    assert [m["mountPath"] for m in result["spec"]["containers"][0]["volumeMounts"]] == ["/a", "/b"]


def test_one_policy_holds_for_all_classes() -> None:
    result = admitted(pod({CLASS: "s3-sample,other", ROOT: "/a,/b", names.POLICY_ANNOTATION: "shared"}))
    assert {v["csi"]["volumeAttributes"]["mountPodDispatchPolicy"] for v in result["spec"]["volumes"]} == {"shared"}


def test_a_strangers_volume_of_the_contracts_name_is_stepped_over() -> None:
    result = admitted(pod(ASKED, volumes=[{"name": "dynamic-volume-root-path", "emptyDir": {}}]))
    assert [v["name"] for v in result["spec"]["volumes"]] == ["dynamic-volume-root-path", "dynamic-volume-root-path-1"]
    assert result["spec"]["containers"][0]["volumeMounts"][0]["name"] == "dynamic-volume-root-path-1"


class TestNamespaceDefaults:
    def test_they_make_a_silent_pod_one_that_asked(self) -> None:
        assert admitted(pod(), defaults=ASKED)["spec"]["volumes"] == [VOLUME]

    def test_the_pods_own_annotation_wins_key_by_key(self) -> None:
        result = admitted(pod({ROOT: "/mine"}), defaults=ASKED)
        assert result["spec"]["containers"][0]["volumeMounts"] == [{**MOUNT, "mountPath": "/mine"}]

    def test_a_pod_opts_out(self) -> None:
        given = pod({names.INJECT: "false"})
        assert admitted(given, defaults=ASKED) == given

    def test_an_empty_class_and_root_undo_them(self) -> None:
        given = pod({CLASS: "", ROOT: ""})
        assert admitted(given, defaults=ASKED) == given

    def test_containers_that_a_pod_does_not_have_are_no_mistake(self) -> None:
        given = pod()
        assert admitted(given, defaults={**ASKED, names.CONTAINERS_ANNOTATION: "notebook"}) == given

    def test_annotations_of_others_are_not_taken_over(self) -> None:
        assert admitted(pod(), defaults={**ASKED, "example.com/x": "y"})["metadata"].get("annotations") is None


class TestWrittenByHand:
    given = pod(volumes=[VOLUME], containers=[{"name": "app", "volumeMounts": [MOUNT]}])

    def test_it_gets_the_label_and_nothing_else(self) -> None:
        result = admitted(self.given)
        assert result["metadata"].pop("labels") == {names.INJECTED_LABEL: "true"}
        assert result == self.given

    def test_it_gets_the_label_also_where_injection_is_declined(self) -> None:
        given = copy.deepcopy(self.given)
        given["metadata"]["annotations"] = {names.INJECT: "false"}
        assert admitted(given)["metadata"]["labels"] == {names.INJECTED_LABEL: "true"}

    def test_a_mount_that_propagation_does_not_reach_is_warned_of(self) -> None:
        mount = {"name": MOUNT["name"], "mountPath": "/buckets"}
        verdict = review(pod(volumes=[VOLUME], containers=[{"name": "app", "volumeMounts": [mount]}]))
        assert verdict.allowed
        assert any("HostToContainer" in w for w in verdict.warnings)

    def test_a_sub_path_is_warned_of(self) -> None:
        mount = {**MOUNT, "subPath": "x"}
        verdict = review(pod(volumes=[VOLUME], containers=[{"name": "app", "volumeMounts": [mount]}]))
        assert any("subPath" in w for w in verdict.warnings)

    def test_its_volume_is_used_for_annotations_of_the_same_class(self) -> None:
        volume = {**VOLUME, "name": "mine"}
        result = admitted(pod(ASKED, volumes=[volume]))
        assert result["spec"]["volumes"] == [volume]
        assert result["spec"]["containers"][0]["volumeMounts"] == [{**MOUNT, "name": "mine"}]

    def test_its_policy_stays_and_the_annotations_is_warned_of(self) -> None:
        given = pod({**ASKED, names.POLICY_ANNOTATION: "shared"}, volumes=[VOLUME])
        assert admitted(given)["spec"]["volumes"] == [VOLUME]
        assert any("independent, as written" in w for w in review(given).warnings)

    def test_a_volume_without_a_class_is_denied(self) -> None:
        volume = {"name": "v", "csi": {"driver": names.DRIVER}}
        assert "storageProviderClass" in review(pod(volumes=[volume])).problems[0]

    @pytest.mark.parametrize("bad", ["../../../../etc", "/etc", "..", "a/b", "-rf", "a\nb", "A", "x" * 254])
    def test_a_volume_of_a_class_that_cannot_be_is_denied(self, bad: str) -> None:
        csi = {"driver": names.DRIVER, "volumeAttributes": {"storageProviderClass": bad}}
        assert "cannot be the name of a" in review(pod(volumes=[{"name": "v", "csi": csi}])).problems[0]

    @pytest.mark.parametrize("policy", ["none", "../shared", "SHARED", "shared,independent", " "])
    def test_a_volume_with_an_unknown_policy_is_denied(self, policy: str) -> None:
        csi = {"driver": names.DRIVER, "volumeAttributes": {"storageProviderClass": "a", "mountPodDispatchPolicy": policy}}
        assert f"{policy!r} is no dispatch policy" in review(pod(volumes=[{"name": "v", "csi": csi}])).problems[0]


@pytest.mark.parametrize("given", [pod(ASKED), pod(volumes=[VOLUME])], ids=["by annotation", "by hand"])
def test_a_pod_of_a_namespace_that_may_not_use_the_class_is_denied(given: Pod) -> None:
    verdict = review(given, classes={"s3-sample": provider_class("s3-sample", allowed_namespaces="team-*")})
    assert verdict.problems == (
        "StorageProviderClass s3-sample does not allow the namespace 'apps'; its parameter allowed-namespaces has 'team-*'",
    )
    assert review(given, classes={"s3-sample": provider_class("s3-sample", allowed_namespaces="apps")}).allowed


def test_a_class_that_does_not_exist_is_warned_of_and_not_refused() -> None:
    verdict = review(pod(ASKED), classes={})
    assert verdict.allowed
    assert "StorageProviderClass s3-sample does not exist" in verdict.warnings[0]


def test_a_value_of_inject_that_means_nothing_is_warned_of() -> None:
    verdict = review(pod({**ASKED, names.INJECT: "no"}))
    assert verdict.patch
    assert 'only "false" opts out' in verdict.warnings[0]


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({CLASS: "a"}, f"needs {ROOT} beside it"),
        ({ROOT: "/a"}, f"needs {CLASS} beside it"),
        ({CLASS: "a,b", ROOT: "/a"}, "lists 2 and"),
        ({CLASS: "a,,b", ROOT: "/a,/b,/c"}, "empty place"),
        ({CLASS: "a,a", ROOT: "/a,/b"}, "names a twice"),
        ({CLASS: "a,b", ROOT: "/a,/a/b"}, "/a and /a/b overlap"),
        ({CLASS: "A_b", ROOT: "/a"}, "cannot be the name of a StorageProviderClass"),
        ({CLASS: "../x", ROOT: "/a"}, "cannot be the name of a StorageProviderClass"),
        ({CLASS: "a" * 254, ROOT: "/a"}, "cannot be the name of a StorageProviderClass"),
        ({CLASS: "a", ROOT: "data"}, "must be absolute"),
        ({CLASS: "a", ROOT: "/"}, "cannot be the volume's root"),
        ({CLASS: "a", ROOT: "/a/../b"}, "written plainly"),
        ({CLASS: "a", ROOT: "//a"}, "written plainly"),
        ({CLASS: "a", ROOT: "/a/"}, "written plainly"),
        ({CLASS: "a", ROOT: "/a:b"}, "colons"),
        ({CLASS: "a", ROOT: "/a\nb"}, "control characters"),
        ({CLASS: "a", ROOT: "/a\u202eb"}, "invisible characters"),
        ({CLASS: "a", ROOT: "/" + "x" * 300}, "too long"),
        ({CLASS: "a", ROOT: "/x" * 600}, "too long"),
        ({CLASS: "a", ROOT: "/proc/1"}, "belongs to the kernel"),
        ({CLASS: "a", ROOT: "/dev"}, "belongs to the kernel"),
        ({CLASS: "a", ROOT: "/usr"}, "own programs"),
        ({**ASKED, names.POLICY_ANNOTATION: "Shared"}, "no dispatch policy"),
        ({CLASS: "a,b,c", ROOT: "/a,/b,/c", names.POLICY_ANNOTATION: "shared,shared"}, "lists 2 policies for 3 classes"),
        ({**ASKED, names.CONTAINERS_ANNOTATION: "app,nobody"}, "there is no container nobody; there are app"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(annotations: dict[str, str], said: str) -> None:
    verdict = review(pod(annotations))
    assert not verdict.allowed
    assert said in verdict.problems[0]
    assert verdict.patch == ()


@pytest.mark.parametrize("root", ["/data", "/daten/größe 数据", "/usr/share/data", "/home/me/.data", "/processes", "/etc/x"])
def test_any_other_root_is_accepted(root: str) -> None:
    assert admitted(pod({CLASS: "s3-sample", ROOT: root}))["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == root


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        ({"mountPath": "/buckets"}, "has volume other at /buckets"),
        ({"mountPath": "/buckets/"}, "has volume other at /buckets"),
        ({"mountPath": "buckets"}, "has volume other at /buckets"),
        ({"mountPath": "//buckets//x"}, "has volume other at /buckets/x"),
    ],
)
def test_a_root_that_another_mount_needs_is_refused(mount: dict[str, Any], said: str) -> None:
    given = pod(
        ASKED,
        volumes=[{"name": "other", "emptyDir": {}}],
        containers=[{"name": "app", "volumeMounts": [{"name": "other", **mount}]}],
    )
    assert said in review(given).problems[0]


@pytest.mark.parametrize(
    ("source", "mount"),
    [
        ({"configMap": {"name": "x"}}, {}),
        ({"secret": {"secretName": "x"}}, {}),
        ({"projected": {"sources": []}}, {}),
        ({"downwardAPI": {"items": []}}, {}),
        ({"emptyDir": {}}, {"readOnly": True}),
    ],
)
def test_a_root_below_something_read_only_is_refused(source: dict[str, Any], mount: dict[str, Any]) -> None:
    mounts = [{"name": "other", "mountPath": "/home", **mount}]
    given = pod(
        {CLASS: "a", ROOT: "/home/buckets"},
        volumes=[{"name": "other", **source}],
        containers=[{"name": "app", "volumeMounts": mounts}],
    )
    assert "cannot be made in it" in review(given).problems[0]


def test_a_root_below_a_writable_volume_is_welcome() -> None:
    given = pod(
        {CLASS: "s3-sample", ROOT: "/home/buckets"},
        volumes=[{"name": "home", "persistentVolumeClaim": {"claimName": "x"}}],
        containers=[{"name": "app", "volumeMounts": [{"name": "home", "mountPath": "/home"}]}],
    )
    assert len(admitted(given)["spec"]["containers"][0]["volumeMounts"]) == 2


def test_a_mount_in_a_container_that_was_not_chosen_is_in_no_ones_way() -> None:
    containers = [{"name": "app"}, {"name": "other", "volumeMounts": [{"name": "v", "mountPath": "/buckets"}]}]
    given = pod({**ASKED, names.CONTAINERS_ANNOTATION: "app"}, containers=containers, volumes=[{"name": "v", "emptyDir": {}}])
    assert admitted(given)["spec"]["containers"][1] == containers[1]


VOLUMES = st.sampled_from(
    [
        {"name": "home", "emptyDir": {}},
        {"name": "dynamic-volume-root-path", "emptyDir": {}},
        VOLUME,
        {**VOLUME, "name": "mine"},
        {"name": "settings", "configMap": {"name": "x"}},
    ]
)
MOUNTS = st.sampled_from(
    [{"name": "home", "mountPath": "/home"}, {"name": "home", "mountPath": "/buckets/x"}, MOUNT, {**MOUNT, "name": "mine"}]
)
CONTAINERS = st.fixed_dictionaries({}, optional={"volumeMounts": st.lists(MOUNTS, max_size=2)})
ANNOTATIONS = st.sampled_from([{}, ASKED, {CLASS: "s3-sample,other", ROOT: "/a,/b"}, {**ASKED, names.INJECT: "false"}])
PODS = st.builds(
    lambda annotations, labels, volumes, init, containers: pod(
        annotations,
        labels=labels,
        containers=[{"name": f"c{n}", **c} for n, c in enumerate(containers)],
        **({"volumes": volumes} if volumes is not None else {}),
        **({"initContainers": [{"name": f"i{n}", **c} for n, c in enumerate(init)]} if init else {}),
    ),
    ANNOTATIONS,
    st.sampled_from([None, {}, {"app": "x"}, {names.INJECTED_LABEL: "true"}]),
    st.none() | st.lists(VOLUMES, max_size=3, unique_by=lambda v: str(v["name"])),
    st.lists(CONTAINERS, max_size=2),
    st.lists(CONTAINERS, min_size=1, max_size=2),
)


@given(PODS, st.sampled_from([{}, ASKED]))
@settings(deadline=None)
def test_whatever_the_pod_its_patch_applies_and_leaves_nothing_to_add(given_pod: Pod, defaults: dict[str, str]) -> None:
    verdict = review(given_pod, defaults=defaults)
    if not verdict.allowed:
        return
    result = patched(given_pod, verdict.patch)
    assert review(result, defaults=defaults).patch == ()
    for group in ("containers", "initContainers"):
        for before, after in zip(given_pod["spec"].get(group, ()), result["spec"].get(group, ()), strict=True):
            mounts = after.get("volumeMounts", [])
            assert mounts[: len(before.get("volumeMounts", []))] == before.get("volumeMounts", [])
    volumes = [v["name"] for v in result["spec"].get("volumes", ())]
    assert len(volumes) == len(set(volumes))
