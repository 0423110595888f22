"""What an unquoted YAML word means: the YAML 1.2 core schema (section 10.3), and nothing of YAML 1.1.

`on`, `yes`, `1:30`, `1_000` and dates are text. So is a number with a leading zero: YAML 1.1 reads `017` as 15, 1.2 as
17, so it is nobody's number here. `.inf`, `.nan` and numbers too large for JSON are refused.
"""

from __future__ import annotations

import math
import re
from typing import Final

from gateway.config.tree import Scalar

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_BASED: Final = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_MAX_DIGITS: Final = 40


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar. Raises ValueError for a number that can't be used."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if not text[0].isascii() or text[0] not in "+-.0123456789":
        return text
    return _number(text)


def _number(text: str) -> Scalar:
    whole, based, fraction = _INT.match(text), _BASED.match(text), _FLOAT.match(text)
    if (whole or based) and len(text) > _MAX_DIGITS:
        raise ValueError("this number is too large")
    if whole or based:
        return int(text, 0 if based else 10)
    if _NOT_FINITE.match(text) or (fraction and not math.isfinite(float(text))):
        raise ValueError("this number is not finite")
    return float(text) if fraction else text
