"""Who asks? Credentials → Subject. Each kind of identity is a small class with one method, `identify`.

Nothing here asks IAM, and nothing logs a credential. Deliberately absent: sessions, login, token exchange.
"""

from __future__ import annotations

from gateway.identity.credentials import PlacedTokens
from gateway.identity.identifier import Helpers, Identifier, build_identifier, build_tokens, build_verifier
from gateway.identity.verifier import Verifier

__all__ = [
    "Helpers",
    "Identifier",
    "PlacedTokens",
    "Verifier",
    "build_identifier",
    "build_tokens",
    "build_verifier",
]
