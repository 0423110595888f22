"""Builds Subjects that were authenticated: which names are usable, and the canonical JSON that IAM is asked with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from gateway.model.request import Header
from gateway.model.subject import Subject

_LONGEST_PLAIN_KEY: Final = 256


def usable_name(text: str) -> bool:
    """Whether `text` can name somebody: not empty, no control, format or unassigned characters, no lone surrogates.

    A name goes into logs and into `X-Auth-Subject`; one that cannot be shown as it is would be read as another there.
    """
    return bool(text) and text.isprintable()


def identity(name: str) -> Subject:
    """The Subject `{"type":"identity","id":name}`. Raises ValueError for what has no UTF-8 form."""
    return subject_of("identity", name)


def subject_of(
    type_: str,
    name: str,
    *,
    source: str = "",
    properties: Mapping[str, Any] | None = None,
    claims: Mapping[str, Any] | None = None,
    expires_at_s: float | None = None,
    headers: tuple[Header, ...] = (),
) -> Subject:
    """The Subject of that type and id, with `properties` if there are any. `source` goes into its key.

    Raises ValueError for what has no UTF-8 form.
    """
    parts = ['{"type":', _canonical(type_), ',"id":', _canonical(name)]
    if properties:
        parts += [',"properties":', _canonical(properties)]
    document = "".join(parts) + "}"
    return Subject(
        type=type_,
        id=name,
        key=_key(source + document),
        document=document,
        properties=properties or {},
        claims=claims or {},
        expires_at_s=expires_at_s,
        headers=headers,
    )


def _canonical(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)
    text.encode()
    return text


def _key(text: str) -> str:
    if len(text) <= _LONGEST_PLAIN_KEY:
        return "identity:" + text
    return "identity:sha256:" + sha256(text.encode()).hexdigest()
