"""An identity provider of one's own: keys, tokens, and its key set as a file or at a URL."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

from tests.e2e.conftest import Seen

ISSUER = "https://idp.example"
AUDIENCE = "platform"
LIFETIME_S = 600.0


class Issuer:
    """Signs with its newest key; its key set names those that `published` holds."""

    def __init__(self) -> None:
        self.published: list[ECKey] = []
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key from now on, and publish it beside those before, whose tokens still live."""
        self.key = ECKey.generate_key("P-256", {"kid": f"key-{len(self.published)}-{time.monotonic_ns()}"})
        self.published = [*self.published, self.key]

    def token(self, subject: str, *, lifetime_s: float = LIFETIME_S, **claims: Any) -> str:
        """A token for one person; `lifetime_s` is rounded down to whole seconds of Unix time, as tokens are."""
        now = time.time()
        content = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": int(now), "exp": int(now + lifetime_s)}
        return jwt.encode({"alg": "ES256", "kid": self.key.kid}, {**content, **claims}, self.key)

    def bearer(self, subject: str, **options: Any) -> dict[str, str]:
        """The same as a request header."""
        return {"authorization": f"Bearer {self.token(subject, **options)}"}

    @property
    def key_set(self) -> bytes:
        """The public keys (RFC 7517 section 5)."""
        return json.dumps({"keys": [key.as_dict(private=False) for key in self.published]}).encode()

    def answer(self, _seen: Seen) -> tuple[int, dict[str, str], bytes]:
        """The key set as a server's answer."""
        return 200, {"Content-Type": "application/jwk-set+json"}, self.key_set

    def settings(self, folder: Path, *more: str) -> str:
        """`identity` for routes.yaml, with the key set written beside it."""
        file = folder / "keys.jwks.json"
        file.write_bytes(self.key_set)
        return self.jwt(f'jwks_file: "{file}"', *more)

    @staticmethod
    def jwt(*keys: str) -> str:
        """`identity` for routes.yaml."""
        common = (f"issuer: {ISSUER}", f"audience: {AUDIENCE}", "algorithms: [ES256]", "leeway: 0s")
        return "{jwt: {" + ", ".join((*common, *keys)) + "}}"
