"""No token is accepted that a strict reference refuses: forged, mixed and mutated ones, by the thousand.

The reference is written from the RFCs with `cryptography` alone and shares nothing with the gateway: no parser, no
table of keys, no library for tokens.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import event, given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.errors import GatewayError
from gateway.identity.credentials import Challenge, HeaderTokens
from gateway.identity.jwt import JwtIdentifier
from gateway.identity.key_ring import KeyRing
from gateway.identity.verifier import Verifier
from tests.identity.conftest import EC, NOW_S, OKP, RSA, Clock, FixedKeys, b64, bearer, claims, issuer_of
from tests.support.properties import examples

OTHER = "https://other.example"
SAME_ID = {
    "RS256": RSAKey.generate_key(2048, {"kid": RSA.kid}),
    "ES256": ECKey.generate_key("P-256", {"kid": EC.kid}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": OKP.kid}),
}
KEYS: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "https://idp.example": (("RS256", "EdDSA"), [RSA, OKP]),
    OTHER: (("ES256", "RS256"), [EC, SAME_ID["RS256"]]),
}
AUDIENCES = {"https://idp.example": {"platform"}, OTHER: {"platform", "mobile"}}
SIGNERS = [RSA, EC, OKP, *SAME_ID.values()]


def _decoded(segment: bytes) -> bytes:
    """Base64url without padding, spelled in the one way (RFC 7515 section 2)."""
    data = base64.b64decode(segment + b"=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    assert base64.urlsafe_b64encode(data).rstrip(b"=") == segment
    return data


def _object(data: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    document = json.loads(data.decode(), object_pairs_hook=once)
    assert isinstance(document, dict)
    return document


def _verified(key: Any, algorithm: str, signed: bytes, signature: bytes) -> bool:
    public = key.public_key
    try:
        if algorithm == "RS256" and isinstance(key, RSAKey):
            public.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        elif algorithm == "ES256" and isinstance(key, ECKey) and len(signature) == 64:
            pair = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
            public.verify(encode_dss_signature(*pair), signed, ec.ECDSA(hashes.SHA256()))
        elif algorithm == "EdDSA" and isinstance(key, OKPKey):
            public.verify(signature, signed)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def reference(token: bytes) -> bool:
    """Whether a strict reader accepts the token now."""
    try:
        head, body, end = token.split(b".")
        header, content, signature = _object(_decoded(head)), _object(_decoded(body)), _decoded(end)
        algorithms, keys = KEYS[content["iss"]]
        kid, algorithm = header.get("kid"), header["alg"]
        assert algorithm in algorithms
        assert "crit" not in header
        assert content["exp"] + 30 > NOW_S
        assert content.get("nbf", 0) - 30 <= NOW_S
        named = content["aud"] if isinstance(content["aud"], list) else [content["aud"]]
        assert set(named) & AUDIENCES[content["iss"]]
        assert isinstance(content["sub"], str)
        assert content["sub"]
        fitting = [key for key in keys if kid is None or key.kid == kid]
        return any(_verified(key, algorithm, head + b"." + body, signature) for key in fitting)
    except (AssertionError, KeyError, ValueError, TypeError, UnicodeDecodeError):
        return False


def _signed(key: Any, algorithm: str, signed: bytes) -> bytes:
    """A signature as an attacker would make it: of whatever key, under whatever algorithm's name."""
    private = key.private_key
    if algorithm == "HS256":
        secret = hmac.HMAC(json.dumps(key.as_dict(private=False)).encode(), hashes.SHA256())
        secret.update(signed)
        return secret.finalize()
    if isinstance(key, RSAKey):
        return bytes(private.sign(signed, padding.PKCS1v15(), hashes.SHA256()))
    if isinstance(key, ECKey):
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        r, s = decode_dss_signature(private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return bytes(private.sign(signed))


kids = st.sampled_from([RSA.kid, EC.kid, OKP.kid, "unknown", "", None, 7])
algorithms = st.sampled_from(["RS256", "ES256", "EdDSA", "HS256", "none", "RS512", "rs256"])
issuers = st.sampled_from(["https://idp.example", OTHER, OTHER + "/", "", None])
changes = st.fixed_dictionaries(
    {},
    optional={
        "aud": st.sampled_from(["platform", "mobile", ["mobile"], ["x"], [], None, "Platform"]),
        "exp": st.sampled_from([NOW_S + 60, NOW_S - 29, NOW_S - 31, "soon", None, 253402300799]),
        "nbf": st.sampled_from([NOW_S + 29, NOW_S + 31, NOW_S]),
        "sub": st.sampled_from(["alice", "", None, 7, ["alice"]]),
    },
)
mutations = st.sampled_from(["none", "none", "none", "bit", "cut", "pad", "swap", "strip", "case"])


@st.composite
def tokens(draw: st.DrawFn) -> bytes:
    """A token of the right form in which anything may be wrong, and often nothing is."""
    issuer = draw(issuers)
    keys = KEYS.get(issuer or "", ((), []))[1]
    honest = draw(st.booleans()) and bool(keys)
    key = draw(st.sampled_from(keys if honest else SIGNERS))
    usual = "RS256" if isinstance(key, RSAKey) else "ES256" if isinstance(key, ECKey) else "EdDSA"
    algorithm = usual if honest else draw(algorithms)
    kid = key.kid if honest else draw(kids)
    header = {"alg": algorithm, "typ": "JWT", **({} if kid is None else {"kid": kid})}
    content = claims(iss=issuer, **({} if honest and draw(st.booleans()) else draw(changes)))
    signed = b64(json.dumps(header).encode()) + b"." + b64(json.dumps(content).encode())
    token = signed + b"." + b64(_signed(key, algorithm, signed))
    return _mutated(token, draw(mutations), draw(st.integers(0, 10_000)))


def _mutated(token: bytes, how: str, at: int) -> bytes:
    head, body, end = token.split(b".")
    at %= len(token)
    mutated = {
        "bit": token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :],
        "cut": token[:-1],
        "pad": token + b"=",
        "swap": b".".join((head, end, body)),
        "strip": head + b"." + body + b".",
        "case": b".".join((head, body[:-4] + body[-4:].lower(), end)),
    }
    return mutated.get(how, token)


@pytest.fixture(scope="module")
def identifier() -> JwtIdentifier:
    """Both issuers, on a clock that stands still; no loop runs, so keys are never fetched anew in the background."""
    stands = Clock(1000.0)
    sources = [FixedKeys(*keys, algorithms=algorithms) for algorithms, keys in KEYS.values()]
    challenge = Challenge("edge")
    return JwtIdentifier(
        [issuer_of(issuer=name, audience=tuple(AUDIENCES[name]), algorithms=KEYS[name][0]) for name in KEYS],
        [Verifier(KeyRing(source, refresh_s=600, clock=stands)) for source in sources],
        tokens=HeaderTokens(challenge, 8192),
        challenge=challenge,
        clock=Clock(),
        monotonic=stands,
    )


async def _accepted(identifier: JwtIdentifier, token: bytes) -> bool:
    try:
        return (await identifier.identify(bearer(token))).id == "alice"
    except GatewayError as error:
        if error.code != "unauthenticated":
            raise
        return False


@examples(200)
@given(token=tokens())
async def test_what_is_accepted_is_what_a_strict_reference_accepts(identifier, token):
    wanted = reference(token)
    event(f"good: {wanted}")
    for _ in range(2):
        assert await _accepted(identifier, token) is wanted


def test_the_reference_knows_good_from_bad():
    good = b""
    for name, (allowed, keys) in KEYS.items():
        header = {"alg": allowed[0], "kid": keys[0].kid}
        signed = b64(json.dumps(header).encode()) + b"." + b64(json.dumps(claims(iss=name)).encode())
        good = signed + b"." + b64(_signed(keys[0], allowed[0], signed))
        assert reference(good)
        assert not reference(good[:-2] + b"AA")
    assert not reference(good.replace(b".", b"..", 1))
