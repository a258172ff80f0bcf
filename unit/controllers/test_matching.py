from __future__ import annotations

import msgspec

from dynvol.api.claim import ClaimStatus
from dynvol.api.core import Pod, PodStatus
from dynvol.app.caches import node_view
from dynvol.controllers.view import NodeView, without_other_nodes
from dynvol.kube.client import KubeClient
from dynvol.runtime.watcher import Applied, Removed

from .node_played import STATE, Table
from .objects import NODE, claim, pod, provider_class
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
    kept = without_other_nodes(claim(pods=(mine, theirs)), node=NODE)
    assert kept.status.pods == (mine,)
