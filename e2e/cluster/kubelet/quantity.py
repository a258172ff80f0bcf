"""Resource quantities: `10m`, `50Mi`, `1.5`, `1e3`, as numbers."""

from __future__ import annotations

import math
from decimal import Decimal

_BINARY = {suffix: 1024**power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL: dict[str, Decimal] = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")} | {
    suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)
}


def parse(text: str | int | float) -> Decimal:
    """The value of a quantity in its base unit (cores, bytes)."""
    word = str(text).strip()
    if word[-2:] in _BINARY:
        return Decimal(word[:-2]) * int(_BINARY[word[-2:]])
    if word[-1:] in _DECIMAL:
        return Decimal(word[:-1]) * _DECIMAL[word[-1:]]
    return Decimal(word)


def milli(text: str | int | float) -> int:
    """In thousandths, rounded up: what CPU is counted in."""
    return math.ceil(parse(text) * 1000)


def whole(text: str | int | float) -> int:
    """In whole units, rounded up: bytes."""
    return math.ceil(parse(text))


def divided(text: str | int | float, divisor: str | int) -> int:
    """As the downward API says it: in units of `divisor`, rounded up."""
    unit = parse(divisor)
    return math.ceil(parse(text) / (unit if unit else 1))
