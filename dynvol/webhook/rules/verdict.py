"""The outcome of a review."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


class Operation(msgspec.Struct, frozen=True):
    """One step of a JSON patch (RFC 6902). Injection only ever adds."""

    path: str
    value: object
    op: str = "add"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Denied if there are problems. Both kinds of text are sentences for whoever ran `kubectl apply`."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    patch: tuple[Operation, ...] = ()

    @property
    def allowed(self) -> bool:
        return not self.problems


class Refused(Exception):
    """Raised inside the rules where going on makes no sense; becomes the verdict's only problem."""
