"""Where an upstream says that its things are, as the caller of the gateway reaches them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.forward.heads import Redirects
from gateway.model.route import ProxyAction
from tests.forward.conftest import Conversation, a_request, upstream_of

pytestmark = pytest.mark.hazard

ORIGINS = [b"10.1.2.3:9001", b"store.internal"]


def rewritten(
    name: bytes,
    value: bytes,
    prefix: bytes = b"/inventory",
    *,
    preserves_host: bool = False,
    outer: tuple[bytes, ...] = (),
    trusted: bool = True,
) -> bytes:
    redirects = Redirects(ORIGINS, prefix, preserves_host=preserves_host)
    request = a_request(headers=[(b"x-forwarded-prefix", each) for each in outer])
    request.host, request.trusted = "gw.example", trusted
    ((_, shown),) = redirects.rewritten([(name, value)], request)
    return shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"http://10.1.2.3:9001/login?x=1#f", b"/inventory/login?x=1#f"),
        (b"HTTP://10.1.2.3:9001", b"/inventory/"),
        (b"http://10.1.2.3:9001?x", b"/inventory/?x"),
        (b"//10.1.2.3:9001/x", b"/inventory/x"),
        (b"https://STORE.internal:443/x", b"/inventory/x"),
        (b"http://store.internal/inventory/x", b"/inventory/x"),
        (b"/login", b"/inventory/login"),
        (b"/", b"/inventory/"),
        (b"/inventory", b"/inventory"),
        (b"/inventory/x", b"/inventory/x"),
        (b"/inventory?x", b"/inventory?x"),
        (b"/inventoryx", b"/inventory/inventoryx"),
        (b"login", b"login"),
        (b"?page=2", b"?page=2"),
        (b"https://login.example/x", b"https://login.example/x"),
        (b"http://10.1.2.3:9002/x", b"http://10.1.2.3:9002/x"),
        (b"http://10.1.2.3:9001@evil.example/x", b"http://10.1.2.3:9001@evil.example/x"),
        (b"http://gw.example/x", b"http://gw.example/x"),
    ],
)
def test_a_place_of_the_upstreams_own_is_shown_as_the_gateways(said: bytes, shown: bytes) -> None:
    assert rewritten(b"location", said) == rewritten(b"content-location", said) == shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"http://10.1.2.3:9001/login", b"/login"),
        (b"/login", b"/login"),
        (b"http://10.1.2.3:9001//evil.example/x", b"/.//evil.example/x"),
        (b"http://10.1.2.3:9001/\\evil.example/x", b"/./\\evil.example/x"),
        (b"http://10.1.2.3:9001\\evil.example/x", b"/./\\evil.example/x"),
        (b"//evil.example/x", b"//evil.example/x"),
    ],
)
def test_without_a_prefix_no_place_becomes_that_of_another_origin(said: bytes, shown: bytes) -> None:
    assert rewritten(b"location", said, b"") == shown


def test_a_preserved_host_is_the_upstreams_own() -> None:
    assert rewritten(b"location", b"https://GW.example/x", preserves_host=True) == b"/inventory/x"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"s=1; Path=/; HttpOnly", b"s=1; Path=/inventory; HttpOnly"),
        (b"s=1;path=/app", b"s=1;path=/inventory/app"),
        (b"s=1; Path=/inventory/app", b"s=1; Path=/inventory/app"),
        (b"s=1", b"s=1"),
        (b"s=path=/x", b"s=path=/x"),
        (b"__Host-s=1; Path=/; Secure", b"__Host-s=1; Path=/; Secure"),
        (b"s=1; Domain=.store.internal; Secure", b"s=1; Secure"),
        (b"s=1; domain=10.1.2.3", b"s=1"),
        (b"s=1; Domain=example.com; Path=/", b"s=1; Domain=example.com; Path=/inventory"),
    ],
)
def test_a_cookie_comes_back_to_where_it_was_set(said: bytes, shown: bytes) -> None:
    assert rewritten(b"set-cookie", said) == shown


@pytest.mark.parametrize(
    ("name", "said", "shown"),
    [
        (b"location", b"/login", b"/outer/inventory/login"),
        (b"location", b"http://store.internal/login", b"/outer/inventory/login"),
        (b"location", b"/inventory/login", b"/outer/inventory/login"),
        (b"location", b"/outer/inventory/login", b"/outer/inventory/login"),
        (b"location", b"/outerinventory", b"/outer/inventory/outerinventory"),
        (b"set-cookie", b"s=1; Path=/", b"s=1; Path=/outer/inventory"),
        (b"set-cookie", b"s=1; Path=/outer/inventory", b"s=1; Path=/outer/inventory"),
    ],
)
def test_what_a_trusted_proxy_took_off_before_us_is_put_back_too(name: bytes, said: bytes, shown: bytes) -> None:
    assert rewritten(name, said, outer=(b"/outer/",)) == shown


@pytest.mark.parametrize(
    ("outer", "trusted"), [((b"/outer",), False), ((b"/outer", b"/other"), True), ((b"//evil.example",), True)]
)
def test_nobody_else_says_where_callers_are_sent(outer: tuple[bytes, ...], trusted: bool) -> None:
    assert rewritten(b"location", b"/login", outer=outer, trusted=trusted) == b"/inventory/login"


async def test_internal_addresses_stay_inside_unless_the_route_says_otherwise(bench: Any) -> None:
    async def moved(talk: Conversation) -> None:
        location = b"Location: http://127.0.0.1:%d/login" % upstream.port
        await talk.answer(302, b"", location, b"Set-Cookie: s=1; Path=/")

    async with upstream_of(moved) as upstream:
        action = ProxyAction(upstream="store", strip_prefix=b"/inventory")
        client = await bench(upstream.port, action=action).get()
        assert (client.values(b"location"), client.values(b"set-cookie")) == (
            [b"/inventory/login"],
            [b"s=1; Path=/inventory"],
        )
        action = ProxyAction(upstream="store", strip_prefix=b"/inventory", rewrite_redirects=False)
        client = await bench(upstream.port, action=action).get()
        assert client.values(b"location") == [b"http://127.0.0.1:%d/login" % upstream.port]
