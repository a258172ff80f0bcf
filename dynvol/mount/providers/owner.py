"""Whose the files of a mount are: storage that knows no users shows all of it as one user's, with one mode.

After `problems` has found none, every field is safe in an option list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

DEFAULT_UMASK: Final = "0022"
_LARGEST_ID: Final = 2**32 - 2
_UMASK: Final = re.compile(r"0?[0-7]{1,4}", re.ASCII)


class Owner(msgspec.Struct, frozen=True):
    uid: int
    gid: int
    umask: str
    """Four octal digits, the first a zero."""

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Owner:
        """From parameters in which `problems` found none."""
        return cls(
            uid=int(parameters.get("uid") or 0),
            gid=int(parameters.get("gid") or 0),
            umask=(parameters.get("umask") or DEFAULT_UMASK).zfill(4)[-4:],
        )

    def mode(self, full: int) -> str:
        """`full` without the bits of the mask, as four octal digits."""
        return f"{full & ~int(self.umask, 8):04o}"


def problems(parameters: Mapping[str, str]) -> list[str]:
    """What is wrong, one sentence each."""
    found = [*(_id_problem(name, parameters.get(name, "")) for name in ("uid", "gid")), _umask_problem(parameters.get("umask", ""))]
    return [problem for problem in found if problem]


def _id_problem(name: str, value: str) -> str:
    fits = not value or (value.isascii() and value.isdigit() and len(value) < 11 and int(value) <= _LARGEST_ID)
    return "" if fits else f"{name} must be a number from 0 to {_LARGEST_ID}, not {value[:16]!r}"


def _umask_problem(value: str) -> str:
    fits = not value or (_UMASK.fullmatch(value) and int(value, 8) <= 0o777)
    return "" if fits else f"umask must be three or four octal digits such as 0022, not {value[:16]!r}"
