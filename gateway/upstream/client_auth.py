"""How the gateway shows a token server which client it is: by HTTP Basic, in the form, or by a signed assertion.

Rules: the secret goes in one place only. An assertion (RFC 7523 section 2.2) is made anew for every request, is for
the token endpoint alone and lives for a minute; its algorithm follows from the key. The key's file is read once.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Protocol
from urllib.parse import quote_plus

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc import jwk, jws, jwt
from joserfc.jwa import JWSAlgModel

from gateway.model.settings import ClientAuthentication, OAuth2ClientCredentials

_LIFETIME_S: Final = 60
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_KEY_TYPES: Final[dict[str, Literal["RSA", "EC", "OKP"]]] = {"RS": "RSA", "ES": "EC", "Ed": "OKP"}
_MIN_RSA_BITS: Final = 2048


class ClientProof(Protocol):
    """What one request to the token endpoint carries."""

    def headers(self) -> dict[str, str]:
        """Header fields."""

    def form(self) -> dict[str, str]:
        """Members of the form."""


def build_client_proof(settings: OAuth2ClientCredentials) -> ClientProof:
    """As `client_auth` says. Raises OSError or ValueError for a key that cannot be used."""
    match settings.client_auth:
        case ClientAuthentication.BASIC:
            return _Basic(settings.client_id, settings.client_secret)
        case ClientAuthentication.POST:
            return _Post(settings.client_id, settings.client_secret)
        case ClientAuthentication.PRIVATE_KEY_JWT:
            if settings.key_file is None:
                raise ValueError("auth.oauth2_client_credentials: private_key_jwt needs a key_file")
            return _Assertion(settings, settings.key_file)


class _Basic:
    """RFC 6749 section 2.3.1: both parts form-encoded."""

    def __init__(self, client_id: str, secret: str) -> None:
        pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
        self._headers = {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def headers(self) -> dict[str, str]:
        return self._headers

    def form(self) -> dict[str, str]:
        return {}


class _Post:
    """RFC 6749 section 2.3.1, for servers that cannot do Basic."""

    def __init__(self, client_id: str, secret: str) -> None:
        self._form = {"client_id": client_id, "client_secret": secret}

    def headers(self) -> dict[str, str]:
        return {}

    def form(self) -> dict[str, str]:
        return self._form


class _Algorithms(jws.JWSRegistry):
    """joserfc's, looked up without its warnings: servers know Ed25519 by its older name."""

    def get_alg(self, name: str) -> JWSAlgModel:
        return self.algorithms[name]


class _Assertion:
    """RFC 7523 section 2.2. `wall` is Unix time."""

    def __init__(
        self, settings: OAuth2ClientCredentials, key_file: Path, *, wall: Callable[[], float] = time.time
    ) -> None:
        pem = key_file.read_bytes()
        self._algorithm = algorithm_of(pem)
        self._key = jwk.import_key(pem, _KEY_TYPES[self._algorithm[:2]])
        self._header = {"alg": self._algorithm}
        if settings.key_id is not None:
            self._header["kid"] = settings.key_id
        self._claims = {"iss": settings.client_id, "sub": settings.client_id, "aud": settings.token_url}
        self._client_id = settings.client_id
        self._wall = wall

    def headers(self) -> dict[str, str]:
        return {}

    def form(self) -> dict[str, str]:
        now_s = int(self._wall())
        claims = {**self._claims, "iat": now_s, "exp": now_s + _LIFETIME_S, "jti": secrets.token_urlsafe(16)}
        assertion = jwt.encode(self._header, claims, self._key, registry=_Algorithms())
        return {"client_id": self._client_id, "client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion}


def algorithm_of(pem: bytes) -> str:
    """The algorithm (RFC 7518, RFC 8037) that a private key signs with. Raises ValueError for one of no use."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise ValueError("it is no PEM private key without a passphrase") from None
    match key:
        case RSAPrivateKey(key_size=size) if size >= _MIN_RSA_BITS:
            return "RS256"
        case EllipticCurvePrivateKey(curve=curve) if curve.name in _CURVES:
            return _CURVES[curve.name]
        case Ed25519PrivateKey():
            return "EdDSA"
    raise ValueError("the key is not RSA of 2048 bits or more, EC (P-256, P-384, P-521) or Ed25519")
