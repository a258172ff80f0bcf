"""Whether two label selectors can meet in one pod.

Only what follows from the selectors themselves counts, not which pods there are: a claim is checked once, pods come and go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dynvol.api.claim import LabelSelector, LabelSelectorRequirement


@dataclass(frozen=True, slots=True)
class _Label:
    """What several requirements together say of one label."""

    present: bool = False
    absent: bool = False
    only: frozenset[str] | None = None
    never: frozenset[str] = frozenset()

    def narrowed(self, requirement: LabelSelectorRequirement) -> _Label:
        values = frozenset(requirement.values)
        match requirement.operator:
            case "In":
                return _Label(True, self.absent, values if self.only is None else self.only & values, self.never)
            case "NotIn":
                return _Label(self.present, self.absent, self.only, self.never | values)
            case "Exists":
                return _Label(True, self.absent, self.only, self.never)
            case "DoesNotExist":
                return _Label(self.present, True, self.only, self.never)
            case _:
                return _Label(True, True)  # LabelSelectorRequirement.matches: an unknown operator matches nothing

    @property
    def possible(self) -> bool:
        contradicted = self.present and self.absent
        exhausted = self.only is not None and not (self.only - self.never)
        return not contradicted and not exhausted


def can_meet(one: LabelSelector, other: LabelSelector) -> bool:
    """Whether there could be a pod that both match."""
    labels: dict[str, _Label] = {}
    for requirement in (*_requirements(one), *_requirements(other)):
        labels[requirement.key] = labels.get(requirement.key, _Label()).narrowed(requirement)
    return all(label.possible for label in labels.values())


def _requirements(selector: LabelSelector) -> Iterator[LabelSelectorRequirement]:
    yield from _equalities(selector.match_labels)
    yield from selector.match_expressions


def _equalities(labels: Mapping[str, str]) -> Iterator[LabelSelectorRequirement]:
    for key, value in labels.items():
        yield LabelSelectorRequirement(key=key, operator="In", values=(value,))
