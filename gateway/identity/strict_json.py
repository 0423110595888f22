"""JSON that every parser reads the same way: no duplicate names, no NaN or infinity, UTF-8 without a BOM (RFC 8725)."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(data: bytes) -> Any:
    """The document. Raises ValueError for anything else than one strict JSON text, also for too deep nesting."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return made


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
