"""Messages as they may be logged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import betterproto2

_HIDDEN: Final = re.compile("secret|token|password|credential", re.IGNORECASE)


def redacted(message: betterproto2.Message) -> dict[str, object]:
    """The fields that are set; values whose field or key sounds like a secret are left out."""
    return _without_secrets(message.to_dict(casing=betterproto2.Casing.SNAKE))


def _without_secrets(fields: Mapping[str, object]) -> dict[str, object]:
    def shown(key: str, value: object) -> object:
        if _HIDDEN.search(key):
            return "…"
        return _without_secrets(value) if isinstance(value, Mapping) else value

    return {key: shown(key, value) for key, value in fields.items()}
