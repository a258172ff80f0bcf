"""A pod's status, as the API shows it, from what runs on the node. Pure.

The words (reasons, messages) are kubelet's, because people and `kubectl` read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from e2e.cluster.api import Object
from e2e.cluster.kubelet.plan import is_sidecar
from e2e.cluster.kubelet.runtime import Container, Exit, now


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container of a pod: its newest try, the one before, and what the probes say."""

    current: Container | None = None
    previous: Container | None = None
    ended: Exit | None = None
    ended_before: Exit | None = None
    ready: bool = False
    started: bool = False
    waiting: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    phase: str
    initialized: bool
    pod_ip: str
    host_ip: str
    containers: Mapping[str, ContainerView] = field(default_factory=dict)
    reason: str = ""
    message: str = ""


def status(pod: Object, view: PodView) -> Object:
    """The whole status for a merge patch; conditions of other writers, and times of what did not change, are kept."""
    spec, before = pod["spec"], pod.get("status") or {}
    regular = [_container(container, view) for container in spec["containers"]]
    initial = [_container(container, view) for container in spec.get("initContainers") or ()]
    body: Object = {
        "phase": view.phase,
        "startTime": before.get("startTime") or now(),
        "hostIP": view.host_ip,
        "hostIPs": [{"ip": view.host_ip}],
        "containerStatuses": regular,
        "conditions": _conditions(spec, before, view, regular),
        "reason": view.reason or None,
        "message": view.message or None,
    }
    if view.pod_ip:
        body |= {"podIP": view.pod_ip, "podIPs": [{"ip": view.pod_ip}]}
    if initial:
        body["initContainerStatuses"] = initial
    return body


def _container(container: Object, view: PodView) -> Object:
    seen = view.containers.get(container["name"], ContainerView())
    current = seen.current
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "containerID": f"runc://{current.meta.id}" if current else "",
        "restartCount": current.meta.attempt if current else 0,
        "ready": seen.ready,
        "started": seen.started,
        "state": _state(seen),
        "lastState": _last_state(seen),
    }


def _state(seen: ContainerView) -> Object:
    if seen.waiting:
        return {"waiting": {"reason": seen.waiting, **({"message": seen.message} if seen.message else {})}}
    if seen.current is None:
        return {"waiting": {"reason": "ContainerCreating"}}
    if seen.ended is not None:
        return {"terminated": _terminated(seen.current, seen.ended)}
    return {"running": {"startedAt": _second(seen.current.started_at)}}


def _last_state(seen: ContainerView) -> Object:
    """The end before this one; while a restart is waited for, the newest end is already the last."""
    if seen.waiting and seen.current and seen.ended:
        return {"terminated": _terminated(seen.current, seen.ended)}
    if seen.previous and seen.ended_before:
        return {"terminated": _terminated(seen.previous, seen.ended_before)}
    return {}


def _terminated(container: Container, ended: Exit) -> Object:
    reason = ended.reason or ("OOMKilled" if ended.oom else "Completed" if ended.code == 0 else "Error")
    return {
        "exitCode": ended.code,
        "reason": reason,
        "startedAt": _second(ended.started_at or container.meta.created),
        "finishedAt": _second(ended.finished_at),
        "containerID": f"runc://{container.meta.id}",
        **({"message": ended.message} if ended.message else {}),
    }


def _second(stamp: str) -> str:
    """API times have whole seconds."""
    return stamp.partition(".")[0].removesuffix("Z") + "Z"


def _conditions(spec: Object, before: Object, view: PodView, regular: Sequence[Object]) -> list[Object]:
    over = view.phase in {"Succeeded", "Failed"}
    unready = [each["name"] for each in regular if not each["ready"]]
    unready += _unready_sidecars(spec, view)
    gates = [gate["conditionType"] for gate in spec.get("readinessGates") or ()]
    known = {condition["type"]: condition for condition in before.get("conditions") or ()}
    closed = [gate for gate in gates if known.get(gate, {}).get("status") != "True"]
    why = ("PodCompleted", "") if over else ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    ready = not unready and not over
    fresh = [
        _condition("PodReadyToStartContainers", bool(view.pod_ip) and not over),
        _condition("Initialized", view.initialized, "ContainersNotInitialized"),
        _condition("ContainersReady", ready, *why),
        _condition("Ready", ready and not closed, *(why if not ready else ("ReadinessGatesNotReady", ""))),
        _condition("PodScheduled", True),
    ]
    types = {condition["type"] for condition in fresh}
    others = [condition for condition in before.get("conditions") or () if condition["type"] not in types]
    return others + [_timed(condition, known.get(condition["type"])) for condition in fresh]


def _unready_sidecars(spec: Object, view: PodView) -> list[str]:
    sidecars = [container["name"] for container in spec.get("initContainers") or () if is_sidecar(container)]
    return [name for name in sidecars if not view.containers.get(name, ContainerView()).ready]


def _condition(kind: str, holds: bool, reason: str = "", message: str = "") -> Object:
    said = {} if holds else {key: word for key, word in (("reason", reason), ("message", message)) if word}
    return {"type": kind, "status": "True" if holds else "False", "lastProbeTime": None, **said}


def _timed(condition: Object, before: Object | None) -> Object:
    if before and before["status"] == condition["status"]:
        return {**condition, "lastTransitionTime": before.get("lastTransitionTime") or now()}
    return {**condition, "lastTransitionTime": now()}
