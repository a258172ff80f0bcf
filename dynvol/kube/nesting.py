"""Cuts JSON down to a depth that a decoder can take.

Whoever may write a pod or a claim may write its `managedFields`, and the API server keeps them as they come, up to ten thousand
levels deep. The decoder gives up long before that, also on what it only skips, and with it the whole list would be lost, for
every process that reads it. Nothing that is read here lies deeper than a dozen levels, so what does may go.
"""

from __future__ import annotations

import re
from typing import Final

DEEPEST: Final = 64
"""Levels of arrays and objects that are kept."""

_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)


def shallow(document: bytes) -> bytes:
    """`document` with null in place of all that lies deeper. What is no JSON stays none.

    It looks at every bracket, a few million a second, so it is for documents that could not be decoded.
    """
    kept: list[bytes] = []
    depth = copied = 0
    for token in _TOKEN.finditer(document):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth == DEEPEST + 1:
                    kept.append(document[copied : token.start()])
            case b"]" | b"}":
                if depth == DEEPEST + 1:
                    kept.append(b"null")
                    copied = token.end()
                depth -= 1
    return b"".join((*kept, document[copied:] if depth <= DEEPEST else b""))
