"""What has recovered, when, and what is not waited for."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from e2e.chaos.expected import Pair
from e2e.chaos.ledger import Served
from e2e.chaos.recovery import Look, Recovery, Touched


def pair(claim: str, pod: str, *, node: str = "node-1", workload: tuple[str, ...] = ()) -> Pair:
    mine = workload or ("s3fs", f"{pod}-uid")
    return Pair(claim, f"{claim}-uid", pod, f"{pod}-uid", node, f"/{claim}", "0022", mine)


A1, A2, B2 = pair("a", "one"), pair("a", "two", node="node-2"), pair("b", "two", node="node-2")
ALL = (A1, A2, B2)
MOUNT_PODS = {"of-one": ("uid-1", A1.workload), "of-two": ("uid-2", A2.workload)}


def look(at: float, pairs: Iterable[Pair] = ALL, *, claims: str = "", nodes: str = "", of_two: str = "uid-2") -> Look:
    mount_pods = {**MOUNT_PODS, "of-two": (of_two, A2.workload)} if of_two else {"of-one": MOUNT_PODS["of-one"]}
    return Look(at, frozenset(pairs), frozenset(claims.split()), frozenset(nodes.split()), mount_pods)


def served(*pairs: Pair, began: float, done: float) -> dict[tuple[str, str], Served]:
    return {(each.pod, each.path): Served(began, done) for each in pairs}


def test_it_lasts_until_the_last_of_what_was_touched_has_worked() -> None:
    recovery = Recovery(Touched(), look(9), since=10)
    assert not recovery.see(look(11, claims="a b", nodes="node-1"), served(A1, A2, began=10.5, done=11.5))
    assert not recovery.see(look(12, nodes="node-2"), {})
    assert recovery.see(look(13), served(B2, began=10.2, done=12.5))
    assert recovery.seconds == 2.5


def test_what_fails_again_after_it_has_worked_spoils_nothing() -> None:
    recovery = Recovery(Touched(node="node-1"), look(9), since=10)
    assert not recovery.see(look(11, nodes="node-1"), {})
    assert not recovery.see(look(12, claims="a"), {})
    assert recovery.see(look(13), served(A1, began=12, done=12.5))
    assert recovery.seconds == 2.5


def test_a_file_that_was_begun_before_proves_nothing() -> None:
    recovery = Recovery(Touched(pod="one"), look(9), since=10)
    assert not recovery.see(look(11, claims="a"), served(A1, began=9.9, done=10.5))
    assert recovery.see(look(12), served(A1, began=11, done=11.1))


def test_a_look_from_before_proves_nothing() -> None:
    recovery = Recovery(Touched(pod="one"), look(9), since=10)
    assert not recovery.see(look(9.9, claims="a"), served(A1, began=10, done=10.1))
    assert recovery.waits_for == ["one:/a", "a"]


@pytest.mark.parametrize(
    ("touched", "waits"),
    [
        (Touched(node="node-1"), ["a", "node-1", "one:/a"]),
        (Touched(pod="two"), ["a", "b", "two:/a", "two:/b"]),
        (Touched(mount_pod="of-two"), ["a", "b", "two:/a", "two:/b"]),
        (Touched(mount_pod="of-two", claim_uid="b-uid"), ["b", "two:/b"]),
        (Touched(mount_pod="unknown"), []),
    ],
)
def test_only_what_was_touched_is_waited_for(touched: Touched, waits: list[str]) -> None:
    assert sorted(Recovery(touched, look(9), since=10).waits_for) == waits


def test_where_a_mount_pod_was_taken_away_its_mounts_count_from_when_there_is_another() -> None:
    recovery = Recovery(Touched(mount_pod="of-two", replaced="uid-2", claim_uid="b-uid"), look(9), since=10)
    assert not recovery.see(look(11, claims="b"), served(B2, began=10.5, done=10.9))
    assert not recovery.see(look(12, of_two="", claims="b"), served(B2, began=11.5, done=11.9))
    assert not recovery.see(look(14, of_two="uid-3", claims="b"), served(B2, began=13.9, done=14.1))
    assert recovery.see(look(15, of_two="uid-3"), served(B2, began=14.5, done=14.7))
    assert recovery.seconds == pytest.approx(4.7)


def test_what_left_meanwhile_is_not_waited_for() -> None:
    recovery = Recovery(Touched(pod="two"), look(9), since=10)
    assert not recovery.see(look(11, [A1, A2], claims="a"), {})
    assert recovery.see(look(12, [A1, A2]), served(A2, began=11, done=11.5))
    assert recovery.seconds == 1.5


def test_where_all_of_it_left_there_was_no_recovery() -> None:
    recovery = Recovery(Touched(mount_pod="of-two", replaced="uid-2"), look(9), since=10)
    assert recovery.see(look(11, [A1], of_two=""), {})
    assert recovery.seconds is None
