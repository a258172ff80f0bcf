"""What users may set on a FUSE client, and nothing else.

The options of a class reach a privileged process. So each client has a list of those that are harmless, each with the form
that its value must have; anything else is refused in words, never quoted or passed on in hope. No form admits a comma, a
space, a quote or a line break, so that no value can become a second option.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

Check = Callable[[str], str]
"""Takes a value, gives what it should have been; empty if it is fine."""

_SIZE: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?[BKMGT]i?", re.ASCII | re.IGNORECASE)
_DURATION: Final = re.compile(r"([0-9]{1,9}(\.[0-9]{1,3})?(ms|s|m|h|d))+", re.ASCII)
_LONGEST: Final = 4096


def integer(low: int, high: int) -> Check:
    def check(value: str) -> str:
        fits = value.isascii() and value.isdigit() and len(value) < 16 and low <= int(value) <= high
        return "" if fits else f"a number from {low} to {high}"

    return check


def one_of(*choices: str) -> Check:
    return lambda value: "" if value in choices else "one of " + ", ".join(choices)


def size(value: str) -> str:
    return "" if _SIZE.fullmatch(value) else "a size such as 64Mi"


def duration(value: str) -> str:
    return "" if len(value) < 64 and _DURATION.fullmatch(value) else "a duration such as 30s"


def flag(value: str) -> str:
    return "" if value == "" else "without a value"


def switch(value: str) -> str:
    return "" if value in ("", "true", "false") else "true or false"


def parse(text: str) -> dict[str, str]:
    """`a=1,b` as `{"a": "1", "b": ""}`. Blanks around entries and a leading `--` or `-o ` are not taken off: they are refused."""
    entries = [entry.strip(" ") for entry in text.split(",")] if text.strip(" ") else []
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


def unknown(parameters: Mapping[str, str], *, known: frozenset[str]) -> list[str]:
    """What a newer node process may ask of an older mounter. Mounting without it would be mounting something else."""
    return [
        f'this mount pod does not know the parameter "{name[:64]}", so it is older than the node process; delete it, and its '
        "successor will"
        for name in sorted(parameters.keys() - known)
    ]


def anonymity_problems(parameters: Mapping[str, str]) -> list[str]:
    value = parameters.get("anonymous", "")
    return [] if value in ("", "true") else [f"anonymous must be true, or left out, not {value[:16]!r}"]


def chosen(parameters: Mapping[str, str]) -> dict[str, str]:
    """The options of a mount. What the class sets is the class's; the claim fills in the rest."""
    return parse(parameters.get("claimOptions", "")) | parse(parameters.get("options", ""))


def claim_problems(text: str, *, allowed: Mapping[str, Check], claim_options: Collection[str], client: str) -> list[str]:
    """What is wrong with a claim's own options for `client`."""
    narrowed = {name: check for name, check in allowed.items() if name in claim_options}
    return [f"{problem} by a claim" for problem in problems(text, allowed=narrowed, client=client)]


def problems(text: str, *, allowed: Mapping[str, Check], client: str) -> list[str]:
    """What is wrong with a user's options for `client`, one sentence each."""
    if len(text) > _LONGEST:
        return [f"mount options take at most {_LONGEST} characters"]
    return [problem for name, value in parse(text).items() if (problem := _problem(name, value, allowed, client))]


def _problem(name: str, value: str, allowed: Mapping[str, Check], client: str) -> str:
    check = allowed.get(name)
    if check is None:
        return f"mount option {name[:64]!r} is not allowed for {client}; allowed are: {', '.join(sorted(allowed))}"
    wanted = check(value)
    return f"mount option {name!r} of {client} must be {wanted}, not {value[:64]!r}" if wanted else ""
