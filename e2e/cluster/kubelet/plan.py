"""What a pod needs next: which containers to start, which to end, when to look again. Decisions only.

The rules are kubelet's (`computePodActions`): init containers one after the other, a native sidecar (an init container
with restartPolicy Always) kept running from its turn on, then all others at once, each restarted as the policy says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Observed:
    """The newest try at one container. `code` is None while it runs; `started` waits for the startup probe."""

    attempt: int
    code: int | None
    started: bool = True

    @property
    def running(self) -> bool:
        return self.code is None


@dataclass(slots=True)
class Plan:
    """`start` holds (name, attempt). `finished` means that nothing will be started in this pod any more."""

    start: list[tuple[str, int]] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    backing_off: set[str] = field(default_factory=set)
    look_again: float | None = None
    initialized: bool = False
    finished: bool = False
    phase: str = "Pending"

    def wait(self, name: str, seconds: float) -> None:
        self.backing_off.add(name)
        self.look_again = seconds if self.look_again is None else min(self.look_again, seconds)


def is_sidecar(container: Object) -> bool:
    return bool(container.get("restartPolicy") == "Always")


def decide(spec: Object, observed: Mapping[str, Observed], backoff: Callable[[str], float]) -> Plan:
    """The next steps for a pod that nobody has asked to end. `backoff(name)` is how long a restart must still wait."""
    plan = Plan()
    plan.initialized = _initialize(plan, spec, observed, backoff)
    if plan.finished:
        plan.phase = "Failed"
    elif plan.initialized:
        _run(plan, spec, observed, backoff)
        plan.phase = _phase(plan, spec, observed)
        plan.finished = plan.phase in {"Succeeded", "Failed"}
    if plan.finished:
        plan.start.clear()
        plan.stop = [name for name, container in observed.items() if container.running]
    return plan


def _initialize(plan: Plan, spec: Object, observed: Mapping[str, Observed], backoff: Callable[[str], float]) -> bool:
    """Take the init containers as far as they go; true when the others may start."""
    begun = any(container["name"] in observed for container in spec["containers"])
    for container in spec.get("initContainers") or ():
        name = container["name"]
        seen = observed.get(name)
        if is_sidecar(container):
            if seen is None or not seen.running:
                _start(plan, name, seen, backoff)
            if not begun and not (seen and seen.running and seen.started):
                return False
        elif not begun and (seen is None or seen.code != 0):
            if seen is None or seen.code:
                plan.finished = seen is not None and spec.get("restartPolicy") == "Never"
                _start(plan, name, seen, backoff)
            return False
    return True


def _run(plan: Plan, spec: Object, observed: Mapping[str, Observed], backoff: Callable[[str], float]) -> None:
    for container in spec["containers"]:
        seen = observed.get(container["name"])
        if seen is None or (not seen.running and restarts(spec, seen)):
            _start(plan, container["name"], seen, backoff)


def restarts(spec: Object, seen: Observed) -> bool:
    match spec.get("restartPolicy", "Always"):
        case "Never":
            return False
        case "OnFailure":
            return seen.code != 0
    return True


def _start(plan: Plan, name: str, seen: Observed | None, backoff: Callable[[str], float]) -> None:
    seconds = backoff(name) if seen else 0.0
    if seconds > 0:
        plan.wait(name, seconds)
    else:
        plan.start.append((name, seen.attempt + 1 if seen else 0))


def _phase(plan: Plan, spec: Object, observed: Mapping[str, Observed]) -> str:
    seen = [observed.get(container["name"]) for container in spec["containers"]]
    if any(one is not None and (one.running or restarts(spec, one)) for one in seen):
        return "Running" if all(seen) else "Pending"
    if not all(seen):
        return "Pending"
    return "Succeeded" if all(one and one.code == 0 for one in seen) else "Failed"


class Backoff:
    """Kubelet's restart delays: the first restart at once, then `initial` seconds doubling to `cap`.

    A container that ran for twice the cap starts afresh. Times are the loop's clock, in seconds.
    """

    def __init__(self, *, initial: float = 10.0, cap: float = 300.0) -> None:
        self._initial = initial
        self._cap = cap
        self._delays: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    def ended(self, name: str, *, at: float, ran_for: float) -> None:
        """A container ended by itself; called once for each end."""
        previous = self._delays.get(name)
        if previous is None or ran_for > 2 * self._cap:
            self._delays[name] = 0.0
        else:
            self._delays[name] = min(self._cap, previous * 2 or self._initial)
        self._ended[name] = at

    def remaining(self, name: str, *, now: float) -> float:
        return max(0.0, self._ended.get(name, now) + self._delays.get(name, 0.0) - now)
