"""OpenID discovery: the metadata must name exactly the issuer, and what it points to is not believed blindly."""

from __future__ import annotations

import json

import pytest

from gateway.identity.key_ring import DiscoverySource
from gateway.identity.keys import KeysUnusable
from tests.identity.conftest import RSA, jwks

ISSUER = "https://idp.example/realms/shop"
METADATA = f"{ISSUER}/.well-known/openid-configuration"
KEYS = "https://keys.example/certs"


@pytest.fixture
def source(http, monotonic):
    return DiscoverySource(ISSUER, ("RS256",), lambda _: http, refresh_s=100, clock=monotonic)


def metadata(httpx_mock, **changes) -> None:
    content = {"issuer": ISSUER, "jwks_uri": KEYS, **changes}
    httpx_mock.add_response(url=METADATA, content=json.dumps(content).encode())


async def test_keys_are_found_by_the_metadata(source, httpx_mock):
    metadata(httpx_mock)
    httpx_mock.add_response(url=KEYS, content=jwks(RSA))
    assert (await source.load()).count == 1
    assert source.name == METADATA


async def test_a_look_up_asks_for_the_keys_alone_and_a_later_fetch_for_their_address_too(source, httpx_mock, monotonic):
    metadata(httpx_mock)
    httpx_mock.add_response(url=KEYS, content=jwks(RSA), is_reusable=True)
    await source.load()
    await source.load()
    assert [str(each.url) for each in httpx_mock.get_requests()] == [METADATA, KEYS, KEYS]
    monotonic.now_s += 90
    metadata(httpx_mock, jwks_uri=KEYS + "/new")
    httpx_mock.add_response(url=KEYS + "/new", content=jwks(RSA))
    await source.load()
    assert str(httpx_mock.get_requests()[-1].url) == KEYS + "/new"


async def test_keys_that_moved_are_found_after_a_failure(source, httpx_mock):
    metadata(httpx_mock)
    httpx_mock.add_response(url=KEYS, content=jwks(RSA))
    await source.load()
    httpx_mock.add_response(url=KEYS, status_code=404)
    with pytest.raises(KeysUnusable, match=r"https://keys.example/certs: answered 404"):
        await source.load()
    metadata(httpx_mock, jwks_uri=KEYS + "/new")
    httpx_mock.add_response(url=KEYS + "/new", content=jwks(RSA))
    assert (await source.load()).count == 1


@pytest.mark.parametrize("issuer", [ISSUER + "/", "https://idp.example", "https://evil.example", None, [ISSUER]])
async def test_another_issuer_is_not_believed(source, httpx_mock, issuer):
    metadata(httpx_mock, issuer=issuer)
    with pytest.raises(KeysUnusable, match="another issuer"):
        await source.load()


@pytest.mark.parametrize(
    "url",
    [None, "", "http://idp.example/keys", "file:///etc/keys", "https://a@b/", "https://", "//x", 7, "https://x:b/"],
)
async def test_keys_from_anywhere_are_not_fetched(source, httpx_mock, url):
    metadata(httpx_mock, jwks_uri=url)
    with pytest.raises(KeysUnusable, match="no usable jwks_uri"):
        await source.load()


@pytest.mark.parametrize("answer", [{"status_code": 404}, {"content": b"<html>"}, {"content": b"[]"}])
async def test_what_is_no_metadata_is_unusable(source, httpx_mock, answer):
    httpx_mock.add_response(url=METADATA, **answer)
    with pytest.raises(KeysUnusable):
        await source.load()


async def test_an_issuer_with_a_slash_at_its_end_has_one_in_its_metadata_too(http, httpx_mock, monotonic):
    source = DiscoverySource("https://t.example/", ("RS256",), lambda _: http, refresh_s=100, clock=monotonic)
    content = {"issuer": "https://t.example/", "jwks_uri": KEYS}
    url = "https://t.example/.well-known/openid-configuration"
    httpx_mock.add_response(url=url, content=json.dumps(content).encode())
    httpx_mock.add_response(url=KEYS, content=jwks(RSA))
    assert (await source.load()).count == 1
