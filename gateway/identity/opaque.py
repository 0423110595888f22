"""`opaque`: the bearer token itself is the subject, and IAM resolves it. Nobody is authenticated here.

Rule: the token is checked for its alphabet, so that no client can make our call to IAM fail; keys hold its SHA-256.
"""

from __future__ import annotations

from hashlib import sha256

from gateway.errors import GatewayError
from gateway.identity.bearer import Challenge, Tokens, well_formed
from gateway.model.request import Request
from gateway.model.subject import Subject


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
    return Subject(
        type="token",
        id=token,
        key="token:" + sha256(token.encode("ascii")).hexdigest(),
        # b64token has no character that JSON escapes.
        document='{"type":"token","id":"' + token + '"}',
        identified=False,
    )
