"""What is made of the claims of a good token: the subject, what IAM and the upstream are told of it, what it must hold.

Rules: a claim of exactly the name goes first, then the dotted path; lists and objects keep their shape towards IAM. The
subject's key holds where its token comes from, so that the same id of two issuers is two subjects in every store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from gateway.headers import visible
from gateway.identity.claims import TokenRefused
from gateway.identity.subjects import subject_of, usable_name
from gateway.model.request import Header
from gateway.model.settings import ClaimRules
from gateway.model.subject import Subject, claim_of
from gateway.template import Placeholder

_MISSING: Final = object()
_MAX_FIELD_BYTES: Final = 4096


class ClaimReader:
    """Claims → Subject, by the rules of one source of tokens. `source` is its issuer, or its endpoint."""

    def __init__(self, rules: ClaimRules, *, source: str) -> None:
        self._rules = rules
        self._source = f"{sha256(source.encode()).hexdigest()[:32]}:"

    def lacks(self, claims: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
        """The first required claim that does not hold all of its values, with these; None where all do."""
        for name, values in self._rules.required:
            if not _held(claim_of(claims, name)).issuperset(values):
                return name, values
        return None

    def subject(self, claims: Mapping[str, Any], expires_at_s: float | None) -> Subject:
        """The subject. Raises TokenRefused where the claims name nobody, or cannot be passed on."""

        def value(placeholder: Placeholder) -> str:
            found = claim_of(claims, placeholder.name)
            if placeholder.name != "sub" and isinstance(found, int) and not isinstance(found, bool):
                return str(found)
            if isinstance(found, str) and found:
                return found
            raise TokenRefused("The token has no usable subject.")

        type_, name = self._rules.subject_type.fill(value), self._rules.subject_id.fill(value)
        if not (usable_name(type_) and usable_name(name)):
            raise TokenRefused("The token has no usable subject.")
        try:
            return subject_of(
                type_,
                name,
                source=self._source,
                properties=self._properties(claims),
                claims=claims,
                expires_at_s=expires_at_s,
                headers=tuple(self._headers(claims)),
            )
        except (ValueError, RecursionError):
            raise TokenRefused("The claims of the token cannot be passed on.") from None

    def _properties(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        found = ((name, claim_of(claims, name, _MISSING)) for name in self._rules.claims)
        return {name: value for name, value in found if value is not _MISSING}

    def _headers(self, claims: Mapping[str, Any]) -> list[Header]:
        found = ((name, claim_of(claims, claim)) for name, claim in self._rules.headers)
        fields = [(name, _field(value)) for name, value in found if value is not None]
        if sum(len(value) for _, value in fields) > _MAX_FIELD_BYTES:
            raise TokenRefused("The claims of the token cannot be passed on.")
        return fields


def _held(value: Any) -> set[str]:
    """What a claim holds: the words of a text (RFC 6749 section 3.3), or the texts of a list."""
    if isinstance(value, str):
        return set(value.split(" "))
    return {item for item in value if isinstance(item, str)} if isinstance(value, list) else set()


def _field(value: Any) -> bytes:
    """A claim as a field value: text as in `X-Auth-Subject`, a list of texts with commas, anything else as JSON."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return b",".join(visible(item).replace(b",", b"%2C") for item in value)
    return visible(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
