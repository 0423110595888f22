"""Builds Subjects of type `identity`: which names are usable, and the canonical JSON that IAM is asked with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from gateway.model.subject import Subject

_LONGEST_PLAIN_KEY: Final = 256


def usable_name(text: str) -> bool:
    """Whether `text` can name somebody: not empty, no control, format or unassigned characters, no lone surrogates.

    A name goes into logs and into `X-Auth-Subject`; one that cannot be shown as it is would be read as another there.
    """
    return bool(text) and text.isprintable()


def identity(
    name: str,
    properties: Mapping[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
    expires_at_s: float | None = None,
) -> Subject:
    """The Subject `{"type":"identity","id":name}`, with `properties` if there are any.

    Raises ValueError for what has no UTF-8 form.
    """
    parts = ['{"type":"identity","id":', _canonical(name)]
    if properties:
        parts += [',"properties":', _canonical(properties)]
    document = "".join(parts) + "}"
    return Subject(
        type="identity",
        id=name,
        key=_key(document),
        document=document,
        properties=properties or {},
        claims=claims or {},
        expires_at_s=expires_at_s,
    )


def _canonical(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
    text.encode()
    return text


def _key(document: str) -> str:
    if len(document) <= _LONGEST_PLAIN_KEY:
        return "identity:" + document
    return "identity:sha256:" + sha256(document.encode()).hexdigest()
