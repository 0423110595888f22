"""Credentials of the users whose requests are measured."""

from __future__ import annotations

import json
import time
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import RSAKey

USERS = 100
LIFETIME_S = 3600


def write_opaque(file: Path) -> None:
    file.write_text("".join(f"token-of-user-{number:03d}\n" for number in range(USERS)))


def write_jwts(file: Path, jwks_file: Path) -> None:
    """Tokens signed with a new key, and the key set to verify them with."""
    key = RSAKey.generate_key(2048, {"kid": "bench", "use": "sig", "alg": "RS256"})
    jwks_file.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    header = {"alg": "RS256", "kid": "bench"}
    claims = {"iss": "bench", "aud": "gateway", "exp": int(time.time()) + LIFETIME_S}
    tokens = [jwt.encode(header, {**claims, "sub": f"user-{number:03d}"}, key) for number in range(USERS)]
    file.write_text("".join(f"{token}\n" for token in tokens))
