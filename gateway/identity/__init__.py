"""Who asks? Credentials → Subject. Each kind of identity is a small class with one method, `identify`.

Rules (docs/errors.md): bad or missing credentials are 401, also while IAM is down; a credential that two
parsers can read differently is refused, never repaired; nothing here asks IAM; nothing here logs a credential.

Deliberately absent: sessions, cookies, login, token exchange, introspection. `public` routes never come here.
"""

from __future__ import annotations

from gateway.identity.identifier import Identifier, build_identifier

__all__ = ["Identifier", "build_identifier"]
