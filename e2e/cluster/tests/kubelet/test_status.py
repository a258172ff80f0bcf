from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e.cluster.kubelet.runtime import Container, Exit, Meta
from e2e.cluster.kubelet.status import ContainerView, PodView, status

Object = dict[str, Any]


def container(attempt: int = 0) -> Container:
    meta = Meta(f"id{attempt}", "uid", "ns", "p", "main", attempt, "image", "2026-01-01T00:00:00Z", "/log", "/group", False)
    return Container(meta, Path("/nowhere"))


def view(phase: str = "Running", **fields: Any) -> PodView:
    return PodView(phase, True, "127.1.1.2", "127.1.1.1", {"main": ContainerView(**fields)} if fields else {})


def of(pod_view: PodView, *, before: Object | None = None, **spec: Any) -> Object:
    pod = {"spec": {"containers": [{"name": "main", "image": "image"}], **spec}, "status": before or {}}
    return status(pod, pod_view)


def conditions(body: Object) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in body["conditions"]}


def test_a_pod_is_ready_when_its_containers_are() -> None:
    assert conditions(of(view(current=container(), ready=True)))["Ready"] == "True"
    unready = of(view(current=container(), ready=False))
    assert conditions(unready)["Ready"] == "False"
    assert "containers with unready status: [main]" in str(unready["conditions"])


def test_a_container_that_was_not_made_yet_is_being_created() -> None:
    assert of(view("Pending"))["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}


def test_while_a_restart_is_waited_for_the_last_end_is_shown() -> None:
    ended = Exit(3, False, "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01.5Z")
    shown = of(view(current=container(2), ended=ended, waiting="CrashLoopBackOff"))["containerStatuses"][0]
    assert shown["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert shown["lastState"]["terminated"]["exitCode"] == 3
    assert shown["lastState"]["terminated"]["finishedAt"] == "2026-01-01T00:00:01Z"
    assert shown["restartCount"] == 2


def test_a_kill_for_memory_is_named() -> None:
    shown = of(view("Failed", current=container(), ended=Exit(137, True, "", "2026-01-01T00:00:00Z")))
    assert shown["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"


def test_conditions_of_others_are_kept_and_times_change_only_with_the_status() -> None:
    old = "2020-01-01T00:00:00Z"
    before = {
        "conditions": [
            {"type": "Special", "status": "True", "lastTransitionTime": old},
            {"type": "Ready", "status": "True", "lastTransitionTime": old},
            {"type": "Initialized", "status": "False", "lastTransitionTime": old},
        ]
    }
    found = {each["type"]: each for each in of(view(current=container(), ready=True), before=before)["conditions"]}
    assert found["Special"]["lastTransitionTime"] == old
    assert found["Ready"]["lastTransitionTime"] == old
    assert found["Initialized"]["lastTransitionTime"] != old


def test_a_readiness_gate_that_nobody_opened_keeps_the_pod_unready() -> None:
    gated = of(view(current=container(), ready=True), readinessGates=[{"conditionType": "Special"}])
    assert conditions(gated)["ContainersReady"] == "True"
    assert conditions(gated)["Ready"] == "False"
