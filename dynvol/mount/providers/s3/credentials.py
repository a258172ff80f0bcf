"""What is wrong with a Secret, said in the words of the Secret.

The clients' own files have no quoting, so a value that could end its line or its field is refused here rather than written.
"""

from __future__ import annotations

import re
from typing import Final

from dynvol.api import names

from ..contract import Credentials, Finding

_PLAIN: Final = re.compile(r"[\x21-\x7e]+")
_QUOTES: Final = ('"', "'", "`")


def finding(given: Credentials) -> Finding | None:
    """The first fault, None if any client can use the credentials."""
    for key, value in ((names.ACCESS_KEY, given.access_key), (names.SECRET_KEY, given.secret_key)):
        if not value:
            return Finding("SecretKeyMissing", f"{given.whose} has no value for the key `{key}`; add it to the Secret")
    for key, value in (
        (names.ACCESS_KEY, given.access_key),
        (names.SECRET_KEY, given.secret_key),
        (names.SESSION_TOKEN, given.session_token or "-"),
    ):
        if not _PLAIN.fullmatch(value) or value.startswith(_QUOTES) or (key == names.ACCESS_KEY and ":" in value):
            return Finding(
                "SecretMalformed",
                f"the value of `{key}` in {given.whose} holds a blank, a line break, a quote or a character beyond ASCII; "
                "store the bare value (`kubectl create secret generic --from-literal` does)",
            )
    return None
