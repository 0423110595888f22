"""Keys, tokens and requests for the tests of identity."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from gateway.identity import Helpers, build_identifier, build_verifier
from gateway.identity.credentials import Challenge, HeaderTokens
from gateway.identity.jwt import JwtIdentifier
from gateway.identity.key_ring import KeyRing
from gateway.identity.keys import VerificationKeys, algorithms_of, parse
from gateway.identity.verifier import Verifier
from gateway.model.request import Request, Target
from gateway.model.settings import ClaimRules, JwtIdentity, JwtIssuer

NOW_S = 1_700_000_000.0
ISSUER = "https://idp.example"
AUDIENCE = "platform"
ALGORITHMS = ("RS256", "ES256", "EdDSA")

RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})
EC = ECKey.generate_key("P-256", {"kid": "ec-1"})
OKP = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})
OTHER_RSA = RSAKey.generate_key(2048, {"kid": "rsa-2"})
SECRET = OctKey.import_key("a secret of thirty-two characters, at least", {"kid": "oct-1"})
KEYS = {"RS256": RSA, "ES256": EC, "EdDSA": OKP, "HS256": SECRET}


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def jwks(*keys: Any, private: bool = False) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=private) for key in keys]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; None removes one."""
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": int(NOW_S) + 300, "iat": int(NOW_S), **changes}
    return {name: value for name, value in made.items() if value is not None}


def sign_raw(header: bytes, payload: bytes, alg: str, key: Any) -> bytes:
    """A signed token of exactly these bytes, which no library would make."""
    signing_input = b64(header) + b"." + b64(payload)
    return signing_input + b"." + b64(JWSRegistry.algorithms[alg].sign(signing_input, key))


def sign(content: dict[str, Any], alg: str = "RS256", key: Any = None, **header: Any) -> bytes:
    key = key or KEYS[alg]
    head = {"alg": alg, "typ": "JWT", "kid": key.kid, **header}
    head = {name: value for name, value in head.items() if value is not None}
    return sign_raw(json.dumps(head).encode(), json.dumps(content).encode(), alg, key)


def request(*authorization: bytes, trusted: bool = False, headers: list[tuple[bytes, bytes]] | None = None) -> Request:
    return Request(
        method="GET",
        target=Target(b"/inventory/7", b"/inventory/7", b"", ("inventory", "7")),
        headers=[*(headers or []), *((b"authorization", value) for value in authorization)],
        host="gateway.test",
        scheme="http",
        peer="127.0.0.1",
        client="127.0.0.1",
        trusted=trusted,
        request_id="r-1",
    )


def bearer(token: bytes) -> Request:
    return request(b"Bearer " + token)


async def close(identifier: Any) -> None:
    """End an identifier that `make` made, and its keys."""
    await identifier.aclose()
    await identifier.verifier.aclose()


class Clock:
    """A clock that only the test moves."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class FixedKeys:
    """A source whose keys the test changes; counts how often it was asked."""

    name = "test"

    def __init__(self, *keys: Any, algorithms: tuple[str, ...] = ALGORITHMS) -> None:
        self._algorithms = algorithms_of(algorithms)
        self.asked = 0
        self.initial: VerificationKeys | None = None
        self.use(*keys)
        self.initial = self.current

    def use(self, *keys: Any) -> None:
        self.current = parse(jwks(*keys, private=True), self._algorithms)

    async def load(self) -> VerificationKeys:
        self.asked += 1
        return self.current


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def monotonic() -> Clock:
    return Clock(1000.0)


def issuer_of(**changes: Any) -> JwtIssuer:
    """The settings of the usual issuer, with changes."""
    usual = {"issuer": ISSUER, "audience": (AUDIENCE,), "algorithms": ALGORITHMS, "jwks_url": "https://x/"}
    return JwtIssuer(**{**usual, **changes})


def built(issuer: JwtIssuer, http: Any, max_token: int = 8192, **more: Any) -> Any:
    """An identifier as the gateway builds it; `.verifier` has its keys."""
    verifier = build_verifier(issuer, lambda _: http)
    helpers = Helpers(verifiers=[verifier])
    identifier = build_identifier(JwtIdentity(issuers=(issuer,)), helpers, max_token=max_token, **more)
    identifier.verifier = verifier  # type: ignore[attr-defined]
    return identifier


@pytest.fixture
def make(clock: Clock, monotonic: Clock) -> Callable[..., JwtIdentifier]:
    """Makes a JwtIdentifier on fake clocks; keyword arguments change its settings. `.source` is where its keys are."""

    def made(*keys: Any, source: Any = None, max_token: int = 8192, rules: Any = None, **changes: Any) -> JwtIdentifier:
        algorithms = changes.get("algorithms", ALGORITHMS)
        source = source or FixedKeys(*(keys or (RSA, EC, OKP)), algorithms=algorithms)
        issuer = issuer_of(rules=ClaimRules(**(rules or {})), **changes)
        verifier = Verifier(KeyRing(source, refresh_s=600, clock=monotonic))
        challenge = Challenge("edge")
        identifier = JwtIdentifier(
            [issuer],
            [verifier],
            tokens=HeaderTokens(challenge, max_token),
            challenge=challenge,
            clock=clock,
            monotonic=monotonic,
        )
        identifier.verifier = verifier  # type: ignore[attr-defined]
        identifier.source = source  # type: ignore[attr-defined]
        return identifier

    return made


@pytest.fixture
async def http():
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client
