"""Finds the bearer token of a request (RFC 6750 section 2.1), and says in 401 what is missing.

Rules: exactly one `Authorization` field; the scheme in any case, one space, then the token. Anything that a peer could
read as another token - a second space, a comma, a byte outside of b64token - is refused, so that what was decided on,
what IAM is asked and what the upstream reads are the same token. Tokens in the query or the body are not looked at.
"""

from __future__ import annotations

import re
from typing import Final

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

    def untrusted(self) -> GatewayError:
        """No identity from a trusted proxy."""
        return self._error("The identity of the caller is not known.", f'Bearer realm="{self._realm}"')

    def _error(self, detail: str, value: str, reason: str = "") -> GatewayError:
        headers = ((b"www-authenticate", value.encode()),)
        return GatewayError("unauthenticated", detail, headers=headers, reason=reason or detail)


def bearer_token(request: Request, challenge: Challenge, max_token: int) -> bytes:
    """The bytes after the scheme, not yet checked (see `well_formed`).

    Raises `unauthenticated` without a bearer token, `bad_request` for several `Authorization` fields, and
    `headers_too_large` for a token of more than `max_token` bytes.
    """
    value = None
    for name, field in request.headers:
        if name == _AUTHORIZATION:
            if value is not None:
                raise GatewayError("bad_request", "The request has more than one Authorization header field.")
            value = field
    if value is None or value[:_START].lower() != _SCHEME:
        raise challenge.missing()
    if len(value) - _START > max_token:
        raise GatewayError("headers_too_large", f"The token is longer than {max_token} bytes.")
    return value[_START:]


def well_formed(token: bytes) -> bool:
    """Whether the bytes are a b64token (RFC 6750 section 2.1), which can be passed on as they are anywhere."""
    return _B64TOKEN.fullmatch(token) is not None
