"""Two selectors can meet unless they contradict each other; hypothesis looks for a pod that says otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynvol.api.claim import LabelSelector, LabelSelectorRequirement
from dynvol.webhook.rules.selectors import can_meet


def labels(**pairs: str) -> LabelSelector:
    return LabelSelector(match_labels=pairs)


def expression(key: str, operator: str, *values: str) -> LabelSelector:
    return LabelSelector(match_expressions=(LabelSelectorRequirement(key=key, operator=operator, values=values),))


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (LabelSelector(), LabelSelector(), True),
        (LabelSelector(), labels(app="a"), True),
        (labels(app="a"), labels(app="a"), True),
        (labels(app="a"), labels(app="b"), False),
        (labels(app="a"), labels(tier="b"), True),
        (labels(app="a"), expression("app", "In", "a", "b"), True),
        (labels(app="a"), expression("app", "In", "b"), False),
        (labels(app="a"), expression("app", "NotIn", "a"), False),
        (labels(app="a"), expression("app", "NotIn", "b"), True),
        (labels(app="a"), expression("app", "Exists"), True),
        (labels(app="a"), expression("app", "DoesNotExist"), False),
        (expression("app", "DoesNotExist"), expression("app", "Exists"), False),
        (expression("app", "DoesNotExist"), expression("app", "NotIn", "a"), True),
        (labels(app="a"), expression("app", "Has"), False),
    ],
)
def test_contradictions_are_seen_in_both_directions(one: LabelSelector, other: LabelSelector, meet: bool) -> None:
    assert can_meet(one, other) is meet
    assert can_meet(other, one) is meet


KEYS, VALUES = st.sampled_from("ab"), st.sampled_from("xyz")
REQUIREMENTS = st.builds(
    LabelSelectorRequirement,
    key=KEYS,
    operator=st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    values=st.lists(VALUES, min_size=1, max_size=3).map(tuple),
)
SELECTORS = st.builds(
    LabelSelector,
    match_labels=st.dictionaries(KEYS, VALUES, max_size=1),
    match_expressions=st.lists(REQUIREMENTS, max_size=3).map(tuple),
)
PODS = [{k: v for k, v in (("a", a), ("b", b)) if v} for a in ("", *"xyzw") for b in ("", *"xyzw")]


@given(SELECTORS, SELECTORS)
@settings(deadline=None)
def test_they_meet_exactly_where_some_pod_matches_both(one: LabelSelector, other: LabelSelector) -> None:
    assert can_meet(one, other) is any(one.matches(pod) and other.matches(pod) for pod in PODS)
