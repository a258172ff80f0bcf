from __future__ import annotations

import gc

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvol.api.claim import ClaimStatus, DynamicVolumeClaim
from dynvol.api.core import Pod, PodSpec, PodStatus, SecurityContext
from dynvol.app.caches import node_view
from dynvol.controllers.desired import attachments, path_in_container, reaches, wanted_mount, workloads
from dynvol.controllers.matching import BY_LABEL, index_by_label, reaching
from dynvol.controllers.view import NodeView, as_user_of_volumes, without_other_nodes
from dynvol.kube.client import KubeClient
from dynvol.runtime.store import Store
from dynvol.runtime.watcher import Applied, Removed

from .node_played import STATE, Table
from .objects import CLASSES, NODE, claim, pod, provider_class, running
from .test_status import entry


class Nowhere(KubeClient):
    """The caches are filled by hand."""

    def __init__(self) -> None:
        pass

    def source(self, *_: object, **__: object) -> None:  # type: ignore[override]
        return None


def view(*pods: Pod) -> NodeView:
    made = node_view(Nowhere(), Table(), node=NODE, namespace="driver", state_dir=STATE)
    made.classes._take(Applied(provider_class()))
    for each in pods:
        made.pods._take(Applied(each))
    return made


def test_what_was_worked_out_is_kept_while_only_states_change() -> None:
    made = view(pod())
    made.claims._take(Applied(claim()))
    first = made.matches.of(pod())
    assert list(first) == ["uid-data"]
    made.claims._take(Applied(msgspec.structs.replace(claim(), status=ClaimStatus(mounted=1))))
    made.pods._take(Applied(msgspec.structs.replace(pod(), status=PodStatus(phase="Running", message="busy"))))
    assert made.matches.of(pod()) is first


def test_whatever_decides_is_noticed() -> None:
    made = view(pod())
    assert not made.matches.of(pod())
    made.claims._take(Applied(claim()))
    assert list(made.matches.of(pod())) == ["uid-data"]
    made.claims._take(Applied(claim(mountpoint="/moved")))
    assert [a.path for a in made.matches.of(pod()).values()] == ["uid-web-1/moved"]
    other = pod(labels={"app": "db"})
    made.pods._take(Applied(other))
    assert not made.matches.of(other)
    made.pods._take(Applied(pod()))
    made.classes._take(Removed(provider_class()))
    assert [a.refusal is not None for a in made.matches.of(pod()).values()] == [True]
    made.claims._take(Removed(claim()))
    assert not made.matches.of(pod())


def test_what_is_kept_goes_with_its_pod() -> None:
    made = view(pod("a"), pod("b"))
    made.claims._take(Applied(claim()))
    assert made.matches.of(pod("a")) and made.matches.of(pod("b"))
    for name in ("a", "b"):
        made.pods._take(Removed(pod(name)))
    assert not made.matches._known


def test_a_node_keeps_of_a_claims_entries_only_its_own() -> None:
    mine, theirs = entry("a"), msgspec.structs.replace(entry("b"), node="another")
    whole = claim(pods=(mine, theirs))
    kept = without_other_nodes(whole, node=NODE)
    assert kept.status.pods == (mine,)
    assert (kept.spec, kept.metadata) == (whole.spec, whole.metadata)
    assert without_other_nodes(claim(pods=(theirs,)), node=NODE).status == ClaimStatus()


def test_a_node_keeps_no_annotations_of_claims() -> None:
    whole = claim()
    applied = msgspec.structs.replace(whole.metadata, annotations={"last-applied": "x" * 1000})
    assert without_other_nodes(msgspec.structs.replace(whole, metadata=applied), node=NODE) == whole


def test_what_claims_say_alike_is_kept_once() -> None:
    whole = claim()
    other = msgspec.json.decode(msgspec.json.encode(whole), type=DynamicVolumeClaim)
    one, two = (without_other_nodes(given, node=NODE) for given in (whole, other))
    assert one == two == whole
    assert one.metadata.namespace is two.metadata.namespace
    assert one.spec.storage_provider_class is two.spec.storage_provider_class
    assert one.spec.s3_config is not None and two.spec.s3_config is not None
    assert one.spec.s3_config.endpoint is two.spec.s3_config.endpoint


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "x", "longer"]), max_size=3)


@settings(deadline=None)
@given(asked=st.lists(LABELS, max_size=6), labels=LABELS)
def test_the_claims_that_reach_a_pod_are_found_without_looking_at_the_others(
    asked: list[dict[str, str]], labels: dict[str, str]
) -> None:
    claims = [claim(f"c{n}", labels=wanted) for n, wanted in enumerate(asked)] + [claim("far", namespace="far", labels={})]
    store: Store[DynamicVolumeClaim] = Store(indexers={BY_LABEL: index_by_label})
    store.replace(claims)
    subject = pod(labels=labels)
    found = [c.metadata.name for c in reaching(store, subject)]
    assert sorted(found) == [c.metadata.name for c in claims if reaches(c, subject)]


def test_a_claim_costs_the_pods_that_it_does_not_select_nothing() -> None:
    made = view(pod("a"), pod("b", labels={"app": "db"}))
    mine, theirs = (made.matches.of(p) for p in made.pods.store)
    made.claims._take(Applied(claim()))
    changed, kept = (made.matches.of(p) for p in made.pods.store)
    assert kept is theirs and list(changed) == ["uid-data"] and not mine
    assert made.workloads_of_claim(claim()) == {w.uuid for w in workloads(pod("a"))}


def test_what_is_kept_of_a_users_pod_decides_as_all_of_it_would() -> None:
    status = PodStatus(phase="Running", message="busy", container_statuses=running())
    whole = msgspec.structs.replace(pod(security=SecurityContext(fs_group=7)), status=status)
    kept = as_user_of_volumes(whole)
    assert kept.status == PodStatus(phase="Running")
    (of_whole,), (of_kept,) = (attachments(p, [claim()], CLASSES) for p in (whole, kept))
    assert wanted_mount(of_kept, provider_class()) == wanted_mount(of_whole, provider_class())
    assert path_in_container(of_kept) == path_in_container(of_whole)


def test_of_a_pod_without_a_dynamic_volume_no_more_is_kept_than_who_and_where_it_is() -> None:
    kept = as_user_of_volumes(pod(volumes=()))
    assert (kept.metadata.key, kept.metadata.labels, kept.spec) == ("apps/web-1", {}, PodSpec(node_name=NODE))


def test_pods_of_one_template_share_what_is_in_it_on_all_nodes() -> None:
    here, there = as_user_of_volumes(pod("a")), as_user_of_volumes(pod("b", node="elsewhere"))
    assert here.spec.volumes is there.spec.volumes
    assert (here.spec.node_name, there.spec.node_name) == (NODE, "elsewhere")


def test_the_garbage_collector_need_not_look_at_what_came_from_the_api() -> None:
    assert not gc.is_tracked(pod()) and not gc.is_tracked(claim())
