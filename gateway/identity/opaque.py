"""`opaque`: the bearer token itself is the subject, and IAM resolves it. Nobody is authenticated here.

Rule: the token is checked for its alphabet, so that no client can make our call to IAM fail; keys hold its SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.identity.bearer import Challenge, Tokens, well_formed
from gateway.model.request import Request
from gateway.model.subject import Subject

_NOTHING: Final[Mapping[str, Any]] = {}


class OpaqueIdentifier:
    """Bearer token → Subject of type `token`."""

    def __init__(self, *, tokens: Tokens, challenge: Challenge) -> None:
        self._tokens = tokens
        self._challenge = challenge

    async def identify(self, request: Request) -> Subject:
        """See Identifier."""
        raw = self._tokens.of(request)
        if not well_formed(raw):
            raise self._challenge.invalid("The token is malformed.")
        return token_subject(raw.decode("ascii"))

    def late(self) -> GatewayError:
        """See Identifier. Nothing is waited for."""
        return GatewayError("identity_unavailable")

    async def aclose(self) -> None:
        """Nothing runs."""


def token_subject(token: str) -> Subject:
    """The Subject that a well-formed token is."""
    key = "token:" + sha256(token.encode("ascii")).hexdigest()
    document = '{"type":"token","id":"' + token + '"}'  # b64token has no character that JSON escapes
    # By position, and with what is empty shared: this is made for every request. The last one: not identified.
    return Subject("token", token, key, document, _NOTHING, _NOTHING, None, False)
