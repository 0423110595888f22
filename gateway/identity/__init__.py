"""Who asks? Credentials → Subject. Each kind of identity is a small class with one method, `identify`.

Rules (docs/identity.md): bad or missing credentials are 401, also while IAM is down; a credential that two parsers can
read differently is refused, never repaired; nothing here asks IAM; nothing here logs a credential.

Deliberately absent: sessions, login, token exchange. `public` routes never come here.
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
