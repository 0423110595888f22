"""JSON that no two parsers read differently: UTF-8 without BOM, one document, no duplicate keys, no NaN (RFC 8259)."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from gateway.iam.failure import invalid


def parsed(body: bytes) -> Any:
    """The document. Raises CallFailure for anything else, also for nesting that is too deep."""
    try:
        return _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise invalid(f"the reply is not strict JSON ({type(error).__name__})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key occurs twice")
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
