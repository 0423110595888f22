"""Finds the bearer token of a request (RFC 6750 section 2.1), and says in 401 what is missing.

Rules: exactly one `Authorization` field; the scheme in any case, one space, then the token. Anything that a peer could
read as another token - a second space, a comma, a byte outside of b64token - is refused, so that what was decided on,
what IAM is asked and what the upstream reads are the same token. Other places than this field: see `places`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.model.request import Request

_SCHEME: Final = b"bearer "
_START: Final = len(_SCHEME)
_AUTHORIZATION: Final = b"authorization"
_B64TOKEN: Final = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")


class Challenge:
    """Makes the 401s of one listener, with their `WWW-Authenticate` (RFC 6750 section 3)."""

    __slots__ = ("_realm",)

    def __init__(self, realm: str) -> None:
        self._realm = re.sub(r"[^\x20-\x7e]|[\"\\]", "", realm)

    def missing(self) -> GatewayError:
        """No credentials of a kind that is understood: a challenge without an error code."""
        return self._error("A bearer token is needed.", f'Bearer realm="{self._realm}"')

    def invalid(self, description: str) -> GatewayError:
        """A token was sent and is not good. `description` is a constant sentence, never text of the token."""
        value = f'Bearer realm="{self._realm}", error="invalid_token", error_description="{description}"'
        return self._error(description, value, reason=description)

    def insufficient(self, claim: str, values: Sequence[str]) -> GatewayError:
        """The token is good, but `claim` does not hold all of `values`; all three are of the configuration."""
        wanted = " ".join(values)
        asked = f'scope="{wanted}"' if claim == "scope" else f'error_description="{claim} must hold {wanted}"'
        value = f'Bearer realm="{self._realm}", error="insufficient_scope", {asked}'
        detail = f"The claim {claim} of the token does not hold all of: {wanted}."
        return GatewayError(
            "insufficient_scope", detail, headers=((b"www-authenticate", value.encode()),), reason=detail
        )

    def untrusted(self, reason: str) -> GatewayError:
        """No identity from a trusted proxy. `reason` is for the log."""
        return self._error("The identity of the caller is not known.", f'Bearer realm="{self._realm}"', reason)

    def _error(self, detail: str, value: str, reason: str = "") -> GatewayError:
        headers = ((b"www-authenticate", value.encode()),)
        return GatewayError("unauthenticated", detail, headers=headers, reason=reason or detail)


class Tokens(Protocol):
    """Where the token of a request is."""

    def of(self, request: Request) -> bytes:
        """The token, not yet checked (see `well_formed`).

        Raises `unauthenticated` without one, `bad_request` for several credentials, and `headers_too_large` for a token
        of more than `server.max_token` bytes.
        """


class HeaderTokens:
    """Tokens in `Authorization`, after the scheme."""

    def __init__(self, challenge: Challenge, max_token: int) -> None:
        self._challenge = challenge
        self._longest = _START + max_token

    def of(self, request: Request) -> bytes:
        """See Tokens."""
        value = None
        for name, field in request.headers:  # as `authorization_token`, without the calls: every request comes here
            if name == _AUTHORIZATION:
                if value is not None:
                    raise several()
                value = field
        if value is None or value[:_START].lower() != _SCHEME:
            raise self._challenge.missing()
        return value[_START:] if len(value) <= self._longest else limited(value[_START:], self._longest - _START)


def authorization_token(request: Request) -> bytes | None:
    """What follows the scheme `Bearer`, None without it. Raises `bad_request` for several `Authorization` fields."""
    values = request.values(_AUTHORIZATION)
    if len(values) > 1:
        raise several()
    value = values[0] if values else None
    return value[_START:] if value is not None and value[:_START].lower() == _SCHEME else None


def several() -> GatewayError:
    """Whose credentials count cannot be known."""
    return GatewayError("bad_request", "The request has more than one Authorization header field.")


def limited(token: bytes, max_token: int) -> bytes:
    """The token. Raises `headers_too_large` for one of more than `max_token` bytes."""
    if len(token) > max_token:
        raise GatewayError("headers_too_large", f"The token is longer than {max_token} bytes.")
    return token


def well_formed(token: bytes) -> bool:
    """Whether the bytes are a b64token (RFC 6750 section 2.1), which can be passed on as they are anywhere."""
    return _B64TOKEN.fullmatch(token) is not None
