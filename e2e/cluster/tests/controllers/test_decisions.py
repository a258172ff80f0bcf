"""What controllers decide without asking anyone."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from e2e.cluster.controllers.deployment import Counts, bound, rolling_step
from e2e.cluster.controllers.namespaces import LOOK, patience
from e2e.cluster.controllers.scheduler import objection
from e2e.cluster.controllers.selectors import as_query, matches, node_fits, tolerated

Object = dict[str, Any]


def node(name: str = "n", *, ready: str = "True", **spec: Any) -> Object:
    return {
        "metadata": {"name": name, "labels": {"zone": "a", "size": "5"}},
        "spec": spec,
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"},
        },
    }


def pod(**spec: Any) -> Object:
    return {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c"}], **spec}}


def asking(**requests: str) -> Object:
    return pod(containers=[{"name": "c", "resources": {"requests": requests}}])


def test_surge_rounds_up_and_unavailability_down() -> None:
    assert bound("25%", 3, up=True) == 1
    assert bound("25%", 3, up=False) == 0
    assert bound(2, 3, up=True) == 2


def test_a_roll_out_with_surge_makes_the_new_before_it_takes_the_old() -> None:
    first = rolling_step(2, surge=1, unavailable=0, new=Counts(0, 0, 0), old=[Counts(2, 2, 2)])
    assert first == (1, [2])
    second = rolling_step(2, surge=1, unavailable=0, new=Counts(1, 1, 1), old=[Counts(2, 2, 2)])
    assert second[1] == [1]


def test_old_pods_that_serve_nobody_go_first() -> None:
    _, old = rolling_step(2, surge=1, unavailable=1, new=Counts(1, 1, 0), old=[Counts(2, 2, 0)])
    assert old == [1]


counts = st.builds(lambda wanted, available: Counts(wanted, wanted, min(wanted, available)), st.integers(0, 6), st.integers(0, 6))


@given(
    replicas=st.integers(0, 6),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 3),
    new=counts,
    old=st.lists(counts, max_size=3),
)
def test_no_step_takes_more_available_pods_than_may_be_missing(
    replicas: int, surge: int, unavailable: int, new: Counts, old: list[Counts]
) -> None:
    wanted, left = rolling_step(replicas, surge=surge, unavailable=unavailable, new=new, old=old)
    assert all(0 <= after <= before.wanted for after, before in zip(left, old, strict=True))
    if new.wanted < replicas:
        assert wanted <= max(new.wanted, replicas + surge - sum(each.wanted for each in old))
    # Pods that are taken from an old set are those that serve nobody first.
    taken = sum(max(0, each.available - after) for each, after in zip(old, left, strict=True))
    available = new.available + sum(each.available for each in old)
    least = replicas - (unavailable or (0 if surge else 1))
    assert taken <= max(0, available - least)


def test_a_rolling_update_always_ends() -> None:
    new, old = Counts(0, 0, 0), Counts(3, 3, 3)
    for _ in range(20):
        wanted, left = rolling_step(3, surge=1, unavailable=0, new=new, old=[old])
        new = Counts(wanted, wanted, wanted)
        old = Counts(left[0], left[0], left[0])
    assert (new.wanted, old.wanted) == (3, 0)


def test_label_selectors() -> None:
    labels = {"a": "1"}
    assert matches({"matchLabels": {"a": "1"}}, labels)
    assert matches({}, labels)
    assert not matches(None, labels)
    assert matches({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, labels)
    assert as_query({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["x", "y"]}]}) == (
        "a=1,b in (x,y)"
    )


def test_node_affinity_knows_fields_and_labels() -> None:
    def required(**term: Any) -> Object:
        terms = {"nodeSelectorTerms": [term]}
        return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}

    by_name = required(matchFields=[{"key": "metadata.name", "operator": "In", "values": ["n"]}])
    assert node_fits(by_name, node("n"))
    assert not node_fits(by_name, node("other"))
    assert node_fits(required(matchExpressions=[{"key": "size", "operator": "Gt", "values": ["4"]}]), node())
    assert not node_fits(required(), node())


def test_a_toleration_without_a_key_tolerates_everything() -> None:
    taint = {"key": "k", "value": "v", "effect": "NoSchedule"}
    assert tolerated({"operator": "Exists"}, taint)
    assert tolerated({"key": "k", "value": "v"}, taint)
    assert not tolerated({"key": "k", "value": "other"}, taint)
    assert not tolerated({"key": "k", "operator": "Exists", "effect": "NoExecute"}, taint)


def test_the_scheduler_says_why_a_node_will_not_do() -> None:
    assert objection(pod(), node(), []) is None
    assert objection(pod(), node(unschedulable=True), []) == "node(s) were unschedulable"
    assert objection(pod(), node(ready="Unknown"), []) == "node(s) were not ready"
    assert objection(pod(nodeSelector={"zone": "b"}), node(), []) == "node(s) didn't match Pod's node affinity/selector"
    assert objection(asking(cpu="3"), node(), []) == "Insufficient cpu"
    assert objection(asking(memory="600Mi"), node(), [asking(memory="600Mi")]) == "Insufficient memory"
    assert objection(pod(), node(), [pod(), pod(), pod()]) == "Too many pods"


def test_a_namespace_waits_for_half_the_longest_grace_of_pods_that_take_their_time() -> None:
    quick, slow = pod(terminationGracePeriodSeconds=2), pod(terminationGracePeriodSeconds=600)
    over = {**slow, "status": {"phase": "Succeeded"}}
    assert patience([quick, slow], since=11) == 301
    assert patience([quick, slow], since=3) == LOOK, "it begins with looking"
    assert patience([quick, slow], since=601) == LOOK, "their time is over"
    assert patience([quick, over], since=11) == LOOK
    assert patience([], since=11) == LOOK
