"""What a token must say to be an access token for us: pure checks on header and claims, no key, no clock of its own.

Rules (RFC 7519, RFC 8725, RFC 9068): the algorithm is one of the configured ones; no extension is understood, so `crit`
is refused; `jku`, `x5u`, `jwk` and `x5c` are never looked at; `exp` is required; `nbf` and `iat` count when present;
`iss` must be the configured one, `aud` hold one of those; ID tokens and other kinds of JWT are refused where they can
be told apart.
A finding is a constant sentence: it goes into `error_description`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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
