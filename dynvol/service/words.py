"""What is wrong with a mount, in the words of someone who has no cluster.

Providers and the engine speak to users of claims and classes. Where there are none, the request is the claim, the service is the
class and the mount pod, and the Secret is a set of credentials.
"""

from __future__ import annotations

import re
from typing import Final

_OWN: Final = {
    "class's Secret": "set of credentials",
    "class's credentials": "credentials",
    "class's mounter": "mounter",
    "Secret": "set",
    "class": "service",
    "claim": "request",
    "mount pod": "service",
}
_THEIRS: Final = re.compile(rf"\b(?P<article>the|The) (?P<what>{'|'.join(_OWN)})\b")


def own(message: str) -> str:
    return _THEIRS.sub(lambda match: f"{match['article']} {_OWN[match['what']]}", message)
