"""Strict reading of AuthZEN request bodies (RFC 8259 and Authorization API 1.0, sections 6 and 7).

Rules: `Content-Type: application/json`, UTF-8 without a byte order mark, no duplicate members, no NaN, no lone
surrogate, an object at the top. Whatever is wrong is BadRequest with one line that quotes nothing of the body.
"""

from __future__ import annotations

import json
from typing import Any


class BadRequest(Exception):
    """The request is refused as a whole. `status` is 400 unless said otherwise."""

    def __init__(self, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.status = status


def check_content_type(value: str | None) -> None:
    """Refuses anything but application/json, whose only charset is UTF-8 (RFC 8259 section 8.1)."""
    media_type, _, parameters = (value or "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise BadRequest("The Content-Type must be application/json.")
    name, _, charset = parameters.partition("=")
    if name.strip().lower() == "charset" and charset.strip().strip('"').lower() != "utf-8":
        raise BadRequest("JSON is UTF-8: no other charset is accepted.")


def read_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object."""
    if not body:
        raise BadRequest("The body is empty.")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    except ValueError:  # UnicodeError and JSONDecodeError are ValueErrors, so is an integer of thousands of digits
        raise BadRequest("The body is not one valid JSON document in UTF-8.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body is not a JSON object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadRequest("The body has a duplicate member.")
    return members


def _refuse(name: str) -> Any:
    raise BadRequest(f"The body is not JSON: {name} is no JSON number.")
