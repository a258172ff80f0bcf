"""How long it takes until what a fault touched serves again, whatever else is broken meanwhile. Pure: it is fed with looks.

A fault touches mounts of certain pods, and node processes. It has recovered when, since it was healed (or struck, where nothing is
healed), each of these has worked once:

    a mount          its program has begun and closed a file in it without an error
    its claim        it said that it was Ready
    a node process   it said that it was ready
    a mount pod      where it was taken away there is another one; its mounts count from then on

Each counts for itself, so that the next fault, which may strike before, spoils no more than what has not served yet. What is
no longer wanted, since a claim or a pod has left, is not waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from e2e.chaos.expected import Pair
from e2e.chaos.ledger import Served

Place = tuple[str, str]
"""A pod, and the path of a mount in it."""


@dataclass(frozen=True, slots=True)
class Touched:
    """What a fault struck: everything, or as little of it as is named here."""

    node: str = ""
    pod: str = ""
    claim_uid: str = ""
    mount_pod: str = ""
    replaced: str = ""
    """The uid of that mount pod, if it is to be replaced."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment, in seconds since boot."""

    began: float
    pairs: frozenset[Pair] = frozenset()
    """That there should be."""
    claims: frozenset[str] = frozenset()
    """That say they are Ready."""
    nodes: frozenset[str] = frozenset()
    """Whose node process says that it is ready."""
    mount_pods: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Name → uid, and the workload that it serves."""


class Recovery:
    """Of one fault. `last` is the look before it was healed, `since` when that was."""

    def __init__(self, touched: Touched, last: Look, *, since: float) -> None:
        self._began = self._since = self._over = since
        self._successor_of = (touched.mount_pod, touched.replaced) if touched.replaced else None
        self._touched = {(pair.pod, pair.path): pair.claim for pair in last.pairs if _is_touched(pair, touched, last)}
        self._mounts = set(self._touched)
        self._claims = set(self._touched.values())
        self._nodes = {pair.node for pair in last.pairs if touched.node in ("", pair.node)} if not _is_of_mounts(touched) else set()
        self._any = False

    @property
    def waits_for(self) -> list[str]:
        return [*self._nodes, *(f"{pod}:{path}" for pod, path in self._mounts), *self._claims]

    @property
    def seconds(self) -> float | None:
        """None if nothing that it touched is there any more, or nothing was there at all."""
        return self._over - self._began if self._any else None

    def see(self, look: Look, served: Mapping[Place, Served]) -> bool:
        """Whether there is nothing left to wait for."""
        if look.began < self._began:
            return False
        self._drop_what_left(look)
        self._find_successor(look)
        for node in self._nodes & look.nodes:
            self._nodes.discard(node)
            self._note(look.began)
        if self._successor_of is None:
            self._note_mounts(served)
            if look.began >= self._since:
                self._note_claims(look)
        return not self._nodes and not self._mounts and not self._claims

    def _drop_what_left(self, look: Look) -> None:
        there = {(pair.pod, pair.path) for pair in look.pairs}
        self._mounts &= there
        self._claims &= {claim for place, claim in self._touched.items() if place in there}
        if not self._claims:
            self._successor_of = None

    def _find_successor(self, look: Look) -> None:
        if self._successor_of is not None:
            name, uid = self._successor_of
            if name in look.mount_pods and look.mount_pods[name][0] != uid:
                self._successor_of, self._since = None, look.began

    def _note_mounts(self, served: Mapping[Place, Served]) -> None:
        for place in self._mounts & served.keys():
            found = served[place]
            if found.began >= self._since:
                self._mounts.discard(place)
                self._note(found.done)

    def _note_claims(self, look: Look) -> None:
        for claim in self._claims & look.claims:
            self._claims.discard(claim)
            self._note(look.began)

    def _note(self, moment: float) -> None:
        self._any = True
        self._over = max(self._over, moment)


def _is_of_mounts(touched: Touched) -> bool:
    return bool(touched.pod or touched.mount_pod)


def _is_touched(pair: Pair, touched: Touched, look: Look) -> bool:
    _, workload = look.mount_pods.get(touched.mount_pod, ("", ()))
    return (
        touched.node in ("", pair.node)
        and touched.pod in ("", pair.pod)
        and touched.claim_uid in ("", pair.claim_uid)
        and (not touched.mount_pod or pair.workload == workload)
    )
