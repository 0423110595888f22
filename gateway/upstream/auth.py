"""The gateway's own credentials towards an upstream: `upstreams.*.auth`. They replace the caller's `Authorization`.

Rules: header fields are made once, not per request; a secret is never in a message, a repr or a log. Which requests are
tried again after a 401 is decided where they are sent; here `rejected` only says that the credentials did not work.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from typing import Final, Protocol

import httpx

from gateway.model.request import Headers
from gateway.model.settings import BasicAuth, BearerAuth, OAuth2ClientCredentials, UpstreamAuth
from gateway.resilience.deadline import Deadline
from gateway.upstream.oauth2 import ClientCredentials

_FIELD_TEXT: Final = re.compile(r"[\x21-\x7e]+")


class Credentials(Protocol):
    """Header fields that authenticate us to one upstream."""

    async def headers(self, deadline: Deadline) -> Headers:
        """The fields to send; not to be changed. Raises GatewayError (`sent` is False) when there are none in time."""

    def rejected(self) -> None:
        """The upstream answered 401 to them: see `renewed`."""

    async def renewed(self, deadline: Deadline) -> Headers:
        """As `headers`, for a request whose credentials were rejected: others, where there are or will be some."""

    async def aclose(self) -> None:
        """End background work."""


def build_credentials(
    auth: UpstreamAuth, *, http: httpx.AsyncClient | None, clock: Callable[[], float] = time.monotonic
) -> Credentials:
    """The credentials that `auth` describes. `clock` is monotonic.

    `http` asks token servers; it may be None where there is none to ask.

    Raises ValueError for what cannot stand in a header field (RFC 7617 section 2: no colon in a user name).
    """
    match auth:
        case BearerAuth():
            if not _FIELD_TEXT.fullmatch(auth.token):
                raise ValueError("auth.bearer: the token has characters that cannot stand in a header field")
            return FixedCredentials(b"Bearer " + auth.token.encode())
        case BasicAuth():
            if ":" in auth.username:
                raise ValueError("auth.basic: a user name cannot contain a colon")
            pair = f"{auth.username}:{auth.password}".encode()
            return FixedCredentials(b"Basic " + base64.b64encode(pair))
        case OAuth2ClientCredentials():
            if http is None:
                raise ValueError("auth.oauth2_client_credentials: there is no client to ask the token server with")
            return ClientCredentials(auth, http=http, clock=clock)


class FixedCredentials:
    """One `Authorization` for ever: bearer (RFC 6750) or basic (RFC 7617)."""

    __slots__ = ("fixed",)

    def __init__(self, value: bytes) -> None:
        self.fixed: Headers = [(b"authorization", value)]

    async def headers(self, deadline: Deadline) -> Headers:  # nothing to wait for
        """See Credentials."""
        return self.fixed

    def rejected(self) -> None:
        """There are no others."""

    async def renewed(self, deadline: Deadline) -> Headers:  # nothing to wait for
        """See Credentials."""
        return self.fixed

    async def aclose(self) -> None:
        """Nothing runs."""
