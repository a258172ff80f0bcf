"""The annotations by which a pod or its namespace asks for volumes, read strictly.

A mistake here would otherwise show as a volume that never fills, so each is refused in a sentence that names the annotation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dynvol.api import names
from dynvol.api.mounts import overlap

from .paths import problem_with_root
from .verdict import Refused

_CLASS_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_POLICIES: Final = (names.INDEPENDENT, names.SHARED)


@dataclass(frozen=True, slots=True)
class Wish:
    """One class whose volume a pod asks for, and where its containers are to see it."""

    provider_class: str
    root: str
    policy: str
    """Empty where nothing is said of it."""


def read_wishes(annotations: Mapping[str, str]) -> tuple[Wish, ...]:
    """What annotations ask for; nothing if they name neither class nor root. Raises `Refused`."""
    classes, roots = listed(annotations, names.CLASS_ANNOTATION), listed(annotations, names.ROOT_ANNOTATION)
    if not classes and not roots:
        return ()
    if not roots:
        raise Refused(
            f"annotation {names.CLASS_ANNOTATION} needs {names.ROOT_ANNOTATION} beside it: where containers see the volume"
        )
    if not classes:
        raise Refused(
            f"annotation {names.ROOT_ANNOTATION} needs {names.CLASS_ANNOTATION} beside it: the StorageProviderClass to use"
        )
    if len(classes) != len(roots):
        raise Refused(
            f"annotation {names.CLASS_ANNOTATION} lists {len(classes)} and {names.ROOT_ANNOTATION} {len(roots)}; "
            "give one root for each class, both separated by commas"
        )
    _check_classes(classes)
    _check_roots(roots)
    return tuple(map(Wish, classes, roots, _policies(annotations, count=len(classes))))


def listed(annotations: Mapping[str, str], key: str) -> list[str]:
    """The values of a comma-separated annotation; an empty one counts as not given, so that a pod can undo a default."""
    value = annotations.get(key, "").strip()
    if not value:
        return []
    values = [v.strip() for v in value.split(",")]
    if not all(values):
        raise Refused(f"annotation {key} has an empty place in its list: {value!r}")
    return values


def _check_classes(classes: Sequence[str]) -> None:
    for name in classes:
        check_class(name, where=f"annotation {names.CLASS_ANNOTATION}")
        if classes.count(name) > 1:
            raise Refused(f"annotation {names.CLASS_ANNOTATION} names {name} twice; one volume carries all claims of a class")


def _check_roots(roots: Sequence[str]) -> None:
    for index, root in enumerate(roots):
        problem = problem_with_root(root)
        if problem:
            raise Refused(f"annotation {names.ROOT_ANNOTATION}: {root!r} {problem}")
        for other in roots[:index]:
            if overlap(root, other):
                raise Refused(f"annotation {names.ROOT_ANNOTATION}: {other} and {root} overlap; each class needs a root of its own")


def _policies(annotations: Mapping[str, str], *, count: int) -> list[str]:
    """One for each class; a single one holds for all."""
    policies = listed(annotations, names.POLICY_ANNOTATION)
    for policy in policies:
        check_policy(policy, where=f"annotation {names.POLICY_ANNOTATION}")
    if not policies:
        return [""] * count
    if len(policies) not in (1, count):
        raise Refused(
            f"annotation {names.POLICY_ANNOTATION} lists {len(policies)} policies for {count} classes; give one, or one for each"
        )
    return policies if len(policies) == count else policies * count


def check_class(name: str, *, where: str) -> None:
    if not _CLASS_NAME.fullmatch(name) or len(name) > 253:
        raise Refused(f"{where}: {name[:253]!r} cannot be the name of a StorageProviderClass")


def check_policy(policy: str, *, where: str) -> None:
    if policy not in _POLICIES:
        raise Refused(f"{where}: {policy!r} is no dispatch policy; there are {' and '.join(_POLICIES)}")
