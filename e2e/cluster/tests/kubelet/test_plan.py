from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from e2e.cluster.kubelet.plan import Backoff, Observed, Plan, decide

Object = dict[str, Any]


def container(name: str, **fields: Any) -> Object:
    return {"name": name, **fields}


def pod(*names: str, initial: tuple[Object, ...] = (), policy: str = "Always") -> Object:
    return {
        "containers": [container(name) for name in names],
        "initContainers": list(initial),
        "restartPolicy": policy,
    }


def plan(spec: Object, observed: Mapping[str, Observed], delay: float = 0.0) -> Plan:
    return decide(spec, observed, lambda name: delay)


def running(attempt: int = 0, *, started: bool = True) -> Observed:
    return Observed(attempt, None, started)


def ended(code: int, attempt: int = 0) -> Observed:
    return Observed(attempt, code)


def test_all_containers_of_a_new_pod_are_started_at_once() -> None:
    decided = plan(pod("a", "b"), {})
    assert decided.start == [("a", 0), ("b", 0)]
    assert decided.phase == "Pending"


def test_a_running_pod_needs_nothing() -> None:
    decided = plan(pod("a"), {"a": running()})
    assert (decided.start, decided.stop, decided.phase) == ([], [], "Running")


def test_init_containers_run_one_after_the_other_before_all_else() -> None:
    spec = pod("a", initial=(container("i"), container("j")))
    assert plan(spec, {}).start == [("i", 0)]
    assert plan(spec, {"i": running()}).start == []
    assert plan(spec, {"i": ended(0)}).start == [("j", 0)]
    assert plan(spec, {"i": ended(0), "j": ended(0)}).start == [("a", 0)]


def test_a_failed_init_container_is_tried_again() -> None:
    decided = plan(pod("a", initial=(container("i"),)), {"i": ended(1)})
    assert decided.start == [("i", 1)]
    assert not decided.initialized


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    decided = plan(pod("a", initial=(container("i"),), policy="Never"), {"i": ended(1)})
    assert (decided.phase, decided.finished, decided.start) == ("Failed", True, [])


def test_init_containers_do_not_run_again_once_the_others_have_begun() -> None:
    spec = pod("a", initial=(container("i"),))
    assert plan(spec, {"a": running()}).start == []


def test_a_sidecar_must_have_started_before_the_next_goes_on() -> None:
    spec = pod("a", initial=(container("s", restartPolicy="Always"),))
    assert plan(spec, {}).start == [("s", 0)]
    assert plan(spec, {"s": running(started=False)}).start == []
    assert plan(spec, {"s": running()}).start == [("a", 0)]


def test_a_sidecar_is_restarted_even_if_the_pod_is_not() -> None:
    spec = pod("a", initial=(container("s", restartPolicy="Always"),), policy="Never")
    assert plan(spec, {"s": ended(0), "a": running()}).start == [("s", 1)]


def test_a_pod_whose_containers_are_done_ends_its_sidecars() -> None:
    spec = pod("a", initial=(container("s", restartPolicy="Always"),), policy="Never")
    decided = plan(spec, {"s": running(), "a": ended(0)})
    assert (decided.stop, decided.phase, decided.finished) == (["s"], "Succeeded", True)


@pytest.mark.parametrize(
    ("policy", "code", "starts", "phase"),
    [
        ("Always", 0, True, "Running"),
        ("Always", 1, True, "Running"),
        ("OnFailure", 0, False, "Succeeded"),
        ("OnFailure", 1, True, "Running"),
        ("Never", 0, False, "Succeeded"),
        ("Never", 1, False, "Failed"),
    ],
)
def test_the_restart_policy_decides_what_an_end_means(policy: str, code: int, starts: bool, phase: str) -> None:
    decided = plan(pod("a", policy=policy), {"a": ended(code)})
    assert (bool(decided.start), decided.phase) == (starts, phase)


def test_a_restart_in_back_off_waits_and_says_for_how_long() -> None:
    decided = plan(pod("a"), {"a": ended(1)}, delay=7.0)
    assert (decided.start, decided.backing_off, decided.look_again) == ([], {"a"}, 7.0)


def test_the_first_restart_is_at_once_and_later_ones_wait_twice_as_long_each() -> None:
    backoff = Backoff(initial=10, cap=300)
    delays = []
    for _ in range(8):
        backoff.ended("a", at=100.0, ran_for=1.0)
        delays.append(backoff.remaining("a", now=100.0))
    assert delays == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_container_that_ran_long_starts_afresh() -> None:
    backoff = Backoff(initial=10, cap=300)
    for _ in range(5):
        backoff.ended("a", at=0.0, ran_for=1.0)
    backoff.ended("a", at=1000.0, ran_for=601.0)
    assert backoff.remaining("a", now=1000.0) == 0.0
