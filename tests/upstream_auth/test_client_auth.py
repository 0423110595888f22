"""How a client shows a token server who it is: in one place only, and by an assertion that is good for one request."""

from __future__ import annotations

import time
from urllib.parse import parse_qs

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from joserfc import jwk, jwt

from gateway.model.settings import ClientAuthentication, OAuth2ClientCredentials
from gateway.resilience.deadline import Deadline
from gateway.upstream.auth import build_credentials
from gateway.upstream.oauth2 import algorithm_of

TOKEN_URL = "https://idp.example/token"
KEYS = {
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


async def asked(**settings) -> tuple[httpx.Request, dict[str, str]]:
    """The request for a token, and its form."""
    requests = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json={"access_token": "t"})

    made = OAuth2ClientCredentials(token_url=TOKEN_URL, client_id="gw", **settings)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        credentials = build_credentials(made, http=http)
        await credentials.headers(Deadline.after(5))
        await credentials.aclose()
    (request,) = requests
    return request, {name: value for name, (value,) in parse_qs(request.content.decode()).items()}


async def test_by_post_the_secret_is_in_the_form_alone():
    request, form = await asked(client_secret="s3 +&", client_auth=ClientAuthentication.POST)
    assert "authorization" not in request.headers
    assert form == {"grant_type": "client_credentials", "client_id": "gw", "client_secret": "s3 +&"}


async def test_whom_the_token_is_for_is_said():
    _, form = await asked(client_secret="s", scope="read", audience="api", resource="https://iam.example/")
    assert form == {
        "grant_type": "client_credentials",
        "scope": "read",
        "audience": "api",
        "resource": "https://iam.example/",
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # of joserfc, which reads the assertion here
@pytest.mark.parametrize("algorithm", KEYS)
async def test_an_assertion_is_signed_with_the_key_for_the_token_endpoint_alone(tmp_path, algorithm):
    key, file = KEYS[algorithm](), tmp_path / "key.pem"
    file.write_bytes(pem(key))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    kind = {"R": "RSA", "E": "EC"}[algorithm[0]] if algorithm != "EdDSA" else "OKP"
    seen = []
    for _ in range(2):
        request, form = await asked(client_auth=ClientAuthentication.PRIVATE_KEY_JWT, key_file=file, key_id="k1")
        assert "authorization" not in request.headers
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        assert "client_secret" not in form
        token = jwt.decode(form["client_assertion"], jwk.import_key(public, kind), algorithms=[algorithm])
        assert (token.header["alg"], token.header["kid"]) == (algorithm, "k1")
        assert (token.claims["iss"], token.claims["sub"], token.claims["aud"]) == ("gw", "gw", TOKEN_URL)
        assert time.time() < token.claims["exp"] <= time.time() + 60
        seen.append(token.claims["jti"])
    assert len(set(seen)) == 2


@pytest.mark.parametrize(
    "key",
    [
        b"no key",
        pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505
        pem(dsa.generate_private_key(2048)),
        pem(ec.generate_private_key(ec.SECP256K1())),
    ],
)
def test_a_key_of_no_use_is_told(key):
    with pytest.raises(ValueError, match=r"PEM|RSA of 2048 bits"):
        algorithm_of(key)
