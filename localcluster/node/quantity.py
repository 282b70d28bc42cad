"""Resource quantities (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/)."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)")


def parse_quantity(text: str) -> Decimal:
    """Return the value of a quantity such as `500m`, `1.5Gi` or `2e3`.

    Raises:
        ValueError: If it is no quantity.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        msg = f"{text!r} is no resource quantity"
        raise ValueError(msg)
    number, exponent, suffix = match.groups()
    return Decimal(number + (exponent or "")) * _SUFFIXES[suffix or ""]


def in_units(quantity: str, divisor: str) -> int:
    """Return a quantity in units of `divisor`, rounded up, as `resourceFieldRef` does; a divisor of 0 means 1."""
    unit = parse_quantity(divisor) or Decimal(1)
    return math.ceil(parse_quantity(quantity) / unit)
