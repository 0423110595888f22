"""What a token must say to be an access token for us, and what is made of the claims of a good one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from gateway.headers import visible
from gateway.identity.subjects import subject_of, usable_name
from gateway.model.request import Header, Subject, claim_of
from gateway.model.settings import ClaimRules
from gateway.template import Placeholder

# Rules (RFC 7519, RFC 8725, RFC 9068): the algorithm is one of the configured ones; no extension is understood, so
# `crit` is refused; `jku`, `x5u`, `jwk` and `x5c` are never looked at; `exp` is required; `nbf` and `iat` count when
# present; `iss` must be the configured one, `aud` hold one of those; ID tokens and other kinds of JWT are refused
# where they can be told apart. A finding is a constant sentence: it goes into `error_description`.

_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_MALFORMED: Final = "The token is malformed."
OTHER_KIND: Final = "The token is not an access token."
_AFTER_LAST_S: Final = 253_402_300_800
"""The end of the year 9999, which is how some issuers write "never". What lies beyond is milliseconds by mistake."""


class TokenRefused(Exception):
    """The token is not good. The only argument is a constant sentence for the caller."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a good token says."""

    issuer: str
    audience: frozenset[str]
    algorithms: frozenset[str]
    leeway_s: float


def check_header(header: Any, algorithms: frozenset[str]) -> None:
    """Check a JOSE header. Raises TokenRefused."""
    if not isinstance(header, dict):
        raise TokenRefused(_MALFORMED)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise TokenRefused("The algorithm of the token is not accepted.")
    if "crit" in header or "b64" in header:
        raise TokenRefused("The token uses an extension that is not understood.")
    if not isinstance(header.get("kid", ""), str):
        raise TokenRefused(_MALFORMED)
    if "cty" in header or not _is_access_type(header.get("typ", "JWT")):
        raise TokenRefused(OTHER_KIND)


def _is_access_type(typ: Any) -> bool:
    return isinstance(typ, str) and typ.lower() in _TYPES


def check_claims(claims: Any, expected: Expected, now_s: float) -> None:
    """Check the claims at Unix time `now_s`. Raises TokenRefused."""
    if not isinstance(claims, dict):
        raise TokenRefused(_MALFORMED)
    _check_times(claims, expected.leeway_s, now_s)
    if claims.get("iss") != expected.issuer:
        raise TokenRefused("The token has another issuer.")
    if not _names_audience(claims.get("aud"), expected.audience):
        raise TokenRefused("The token is for another audience.")
    if is_other_kind(claims):
        raise TokenRefused(OTHER_KIND)


def _check_times(claims: Mapping[str, Any], leeway_s: float, now_s: float) -> None:
    if "exp" not in claims:
        raise TokenRefused("The token does not expire.")
    if date_of(claims["exp"]) + leeway_s <= now_s:
        raise TokenRefused("The token has expired.")
    for name in ("nbf", "iat"):
        if name in claims and date_of(claims[name]) - leeway_s > now_s:
            raise TokenRefused("The token is not valid yet.")


def date_of(value: Any) -> float:
    """A NumericDate (RFC 7519 section 2). Raises TokenRefused."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _AFTER_LAST_S:
        raise TokenRefused("A date in the token is not a number of seconds.")
    return float(value)


def _names_audience(value: Any, audience: frozenset[str]) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value) and not audience.isdisjoint(value)
    return isinstance(value, str) and value in audience


def is_other_kind(claims: Mapping[str, Any]) -> bool:
    """Whether it is no access token: ID and logout tokens, refresh tokens.

    ID tokens bind other tokens by hash (OpenID Connect Core 3.1.3.6), logout tokens have `events`.
    `typ` and `token_use` as claims are how widespread issuers (Keycloak, Cognito, Hydra) mark what is not for APIs.
    """
    return (
        any(name in claims for name in ("at_hash", "c_hash", "s_hash", "events"))
        or str(claims.get("typ", "")).lower() in ("id", "refresh", "offline", "logout")
        or str(claims.get("token_use", "")).lower() in ("id", "id_token", "refresh", "refresh_token")
    )


# What is made of the claims of a good token: the subject, what IAM and the upstream are told of it, what it must
# hold.
#
# Rules: a claim of exactly the name goes first, then the dotted path; lists and objects keep their shape towards IAM.
# The subject's key holds where its token comes from, so that the same id of two issuers is two subjects in every
# store.

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
