"""How credentials are found in a request: bearer tokens, opaque ones, and the header of a trusted proxy."""

from __future__ import annotations

import contextlib
import json
from hashlib import sha256

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.identity import Helpers, build_identifier, build_verifier
from gateway.identity.credentials import Challenge, HeaderTokens
from gateway.identity.subjects import HeaderIdentifier, OpaqueIdentifier
from gateway.model.settings import HeaderIdentity, OpaqueIdentity
from tests.identity.conftest import RSA, built, claims, close, issuer_of, jwks, request, sign

B64TOKEN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")


@pytest.fixture
def opaque() -> OpaqueIdentifier:
    return OpaqueIdentifier(tokens=HeaderTokens(Challenge("edge"), 64), challenge=Challenge("edge"))


@pytest.fixture
def header() -> HeaderIdentifier:
    return HeaderIdentifier(b"x-user", challenge=Challenge("edge"), max_value=64)


async def refusal(identifier, asked) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await identifier.identify(asked)
    return caught.value


def challenge_of(error: GatewayError) -> str:
    return dict(error.headers)[b"www-authenticate"].decode()


async def test_an_opaque_token_is_the_subject_and_its_hash_the_key(opaque):
    subject = await opaque.identify(request(b"Bearer tok-1"))
    assert json.loads(subject.document) == {"type": "token", "id": "tok-1"}
    assert subject.key == "token:" + sha256(b"tok-1").hexdigest()
    assert (subject.identified, subject.expires_at_s, subject.properties) == (False, None, {})
    assert "tok-1" not in repr(subject)


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
async def test_the_scheme_is_read_in_any_case_and_the_token_is_the_same(opaque, scheme):
    subject = await opaque.identify(request(scheme + b" tok-1"))
    assert subject.id == "tok-1"
    assert subject.key == "token:" + sha256(b"tok-1").hexdigest()


@pytest.mark.parametrize("value", [b"", b"Bearer", b"Basic YTpi", b"Bearertok", b"Bearer\ttok", b"Token abc", b"tok"])
async def test_without_a_bearer_token_the_challenge_names_no_error(opaque, value):
    error = await refusal(opaque, request(value))
    assert (error.code, challenge_of(error)) == ("unauthenticated", 'Bearer realm="edge"')


async def test_without_credentials_the_challenge_names_no_error(opaque):
    error = await refusal(opaque, request())
    assert (error.code, challenge_of(error)) == ("unauthenticated", 'Bearer realm="edge"')


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer ",
        b"Bearer  two-spaces",
        b"Bearer a b",
        b"Bearer a, Bearer b",
        b"Bearer a,b",
        b'Bearer "a"',
        b"Bearer a\x00",
        b"Bearer a\r\nX: y",
        b"Bearer \xff\xfe",
        b"Bearer caf\xc3\xa9",
        b"Bearer ==",
        b"Bearer a=b",
        b"Bearer a\n",
    ],
)
async def test_a_token_that_could_be_read_as_another_is_401(opaque, value):
    """Never passed on to IAM, where it could make our call fail (and buy a degraded answer)."""
    error = await refusal(opaque, request(value))
    assert error.code == "unauthenticated"
    assert 'error="invalid_token"' in challenge_of(error)


async def test_two_credentials_are_a_bad_request(opaque):
    error = await refusal(opaque, request(b"Bearer deny", b"Bearer allow"))
    assert error.code == "bad_request"
    assert (await refusal(opaque, request(b"Bearer a", b"Basic b"))).code == "bad_request"


async def test_a_token_over_the_limit_is_431(opaque):
    await opaque.identify(request(b"Bearer " + b"a" * 64))
    assert (await refusal(opaque, request(b"Bearer " + b"a" * 65))).code == "headers_too_large"


@given(st.binary(min_size=1, max_size=40))
async def test_no_bytes_get_through_but_a_token(token):
    identifier = OpaqueIdentifier(tokens=HeaderTokens(Challenge("edge"), 64), challenge=Challenge("edge"))
    if not set(token) <= B64TOKEN or b"=" in token:
        with contextlib.suppress(GatewayError):
            assert set((await identifier.identify(request(b"Bearer " + token))).id.encode()) <= B64TOKEN
    else:
        subject = await identifier.identify(request(b"Bearer " + token))
        assert json.loads(subject.document) == {"type": "token", "id": token.decode()}


@pytest.mark.parametrize("name", [b"alice", b"CN=Alice Smith,OU=x", "Zoë".encode(), b'quote"d'])
async def test_a_trusted_proxy_names_the_subject(header, name):
    subject = await header.identify(request(trusted=True, headers=[(b"x-user", name)]))
    assert json.loads(subject.document) == {"type": "identity", "id": name.decode()}
    assert (subject.id, subject.identified) == (name.decode(), True)


async def test_nobody_else_names_the_subject(header):
    error = await refusal(header, request(trusted=False, headers=[(b"x-user", b"alice")]))
    assert (error.code, challenge_of(error)) == ("unauthenticated", 'Bearer realm="edge"')


@pytest.mark.parametrize(
    "values", [[], [b""], [b"alice", b"root"], [b"a\x00"], [b"a\nb"], [b"\xff"], [b"\xe2\x80\xae"]]
)
async def test_a_trusted_proxy_names_exactly_one_usable_subject(header, values):
    asked = request(trusted=True, headers=[(b"x-user", value) for value in values])
    assert (await refusal(header, asked)).code == "unauthenticated"


async def test_a_name_over_the_limit_is_431(header):
    asked = request(trusted=True, headers=[(b"x-user", b"a" * 65)])
    assert (await refusal(header, asked)).code == "headers_too_large"


async def test_a_realm_cannot_break_out_of_its_quotes():
    error = Challenge('ed"ge\r\n\\').missing()
    assert challenge_of(error) == 'Bearer realm="edge"'


async def test_each_setting_builds_its_identifier(http, tmp_path):
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(RSA))
    jwt = built(issuer_of(jwks_url=None, jwks_file=file), http, clock=lambda: 1_700_000_000.0, realm="gw")
    assert (await jwt.identify(request(b"Bearer " + sign(claims())))).id == "alice"
    assert 'realm="gw"' in challenge_of(await refusal(jwt, request()))
    await close(jwt)
    for settings, asked in (
        (OpaqueIdentity(), request(b"Bearer x")),
        (HeaderIdentity(b"x-user"), request(trusted=True, headers=[(b"x-user", b"x")])),
    ):
        identifier = build_identifier(settings, Helpers(), max_token=64)
        assert (await identifier.identify(asked)).id == "x"
        await identifier.aclose()


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"keys":[]}', b"not json"])
def test_a_key_file_that_cannot_be_used_is_a_mistake_at_start(tmp_path, content):
    file = tmp_path / "jwks.json"
    if content is not None:
        file.write_bytes(content)
    settings = issuer_of(jwks_url=None, jwks_file=file)
    with pytest.raises(ValueError, match=r"identity.jwt.jwks_file .*jwks.json: "):
        build_verifier(settings, lambda _: None)


@pytest.mark.parametrize("algorithms", [("none",), ("HS257",)])
def test_an_unknown_algorithm_is_a_mistake_at_start(tmp_path, algorithms):
    settings = issuer_of(algorithms=algorithms)
    with pytest.raises(ValueError, match=r"identity.jwt.algorithms"):
        build_verifier(settings, lambda _: httpx.AsyncClient())
