"""A key made for this run, its public half as a JWKS file, and tokens for the demo's people."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

from joserfc import jwt
from joserfc.jwk import ECKey

ISSUER: Final = "https://idp.demo.invalid"
AUDIENCE: Final = "platform"
PEOPLE: Final = {"alice": "operator", "bob": "viewer", "mallory": "no rights"}
LIFETIME_S: Final = 8 * 3600


class Issuer:
    """Signs tokens with a key that lives as long as this object."""

    def __init__(self) -> None:
        self._key = ECKey.generate_key("P-256", {"kid": "demo", "use": "sig", "alg": "ES256"})

    def write_jwks(self, file: Path) -> None:
        """The public key as a JWK set (RFC 7517 section 5)."""
        file.write_text(json.dumps({"keys": [self._key.as_dict(private=False)]}))

    def token(self, subject: str, lifetime_s: int = LIFETIME_S) -> str:
        """A token for one person."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + lifetime_s}
        return jwt.encode({"alg": "ES256", "kid": "demo"}, claims, self._key)
