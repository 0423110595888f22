"""Who sent a request: the trust list applied to a scope."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.forwarded import RequestBuilder, Trust, new_request_id, plain_address
from gateway.model.request import Header, Request
from gateway.model.settings import ServerSettings

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
TRUSTING = ServerSettings(trusted_proxies=PROXIES)


def build(*headers: Header, peer: str = "10.0.0.1", settings: ServerSettings = TRUSTING, **keys: Any) -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "http_version": "1.1",
        "client": (peer, 1234),
        "headers": list(headers),
        "extensions": {"gateway.edge": SimpleNamespace(raw_target=b"/a?b=c", host="gateway.test")},
    }
    return RequestBuilder()(scope | keys, settings)


def test_a_request_as_it_came() -> None:
    request = build((b"a", b"b"), peer="192.0.2.1")
    assert (request.method, request.host, request.scheme, request.http_version) == (
        "GET",
        "gateway.test",
        "http",
        "1.1",
    )
    assert (request.target.raw, request.target.path) == (b"/a?b=c", b"/a")
    assert (request.peer, request.client, request.trusted) == ("192.0.2.1", "192.0.2.1", False)
    assert request.headers == [(b"a", b"b")]
    assert not request.websocket


def test_a_socket_and_a_peer_without_address() -> None:
    request = build(type="websocket", scheme="wss", client=None)
    assert (request.websocket, request.scheme, request.method, request.peer) == (True, "https", "GET", "")


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ([], "10.0.0.1"),
        ([b"1.2.3.4"], "1.2.3.4"),
        ([b"9.9.9.9, 1.2.3.4"], "1.2.3.4"),
        ([b"9.9.9.9", b"1.2.3.4"], "1.2.3.4"),
        ([b"1.2.3.4, 10.0.0.7"], "1.2.3.4"),
        ([b"1.2.3.4 ,\t10.0.0.7,10.9.9.9"], "1.2.3.4"),
        ([b"10.0.0.8, 10.0.0.7"], "10.0.0.8"),
        ([b"1.2.3.4, unknown, 10.0.0.7"], "10.0.0.7"),
        ([b"garbage"], "10.0.0.1"),
        ([b"1.2.3.4" + b", 10.0.0.7" * 63], "1.2.3.4"),
        ([b"1.2.3.4, 10.0.0.9" + b", 10.0.0.7" * 5000], "10.0.0.7"),
        ([b""], "10.0.0.1"),
        ([b"1.2.3.4:5678"], "1.2.3.4"),
        ([b"[2001:db8::1]:5678"], "2001:db8::1"),
        ([b"2001:DB8::1, fd00::9"], "2001:db8::1"),
        ([b"::ffff:1.2.3.4"], "1.2.3.4"),
        ([b"[::FFFF:1.2.3.4]:80"], "1.2.3.4"),
        ([b"::ffff:102:304, ::ffff:10.0.0.7"], "1.2.3.4"),
        ([b"[2001:db8::1]"], "2001:db8::1"),
        ([b"[2001:db8::1]x"], "10.0.0.1"),
        ([b"[2001:db8::1"], "10.0.0.1"),
        ([b"1.2.3.4:x"], "10.0.0.1"),
        ([b"fe80::1%eth0"], "fe80::1"),
        ([b"fe80::1%<script>"], "fe80::1"),
    ],
)
def test_the_client_is_the_rightmost_that_no_trusted_proxy_vouches_for(chain: list[bytes], client: str) -> None:
    fields = [(b"x-forwarded-for", value) for value in chain]
    assert build(*fields).client == client
    assert build(*fields, peer="192.0.2.1").client == "192.0.2.1"


@pytest.mark.parametrize(
    ("value", "scheme"),
    [(b"https", "https"), (b"HTTPS", "https"), (b"http, https", "https"), (b"gopher", "http"), (b"", "http"),
     (b"wss", "https"), (b"WSS", "https"), (b"https, ws", "http")],
)  # fmt: skip
def test_the_scheme_is_what_the_nearest_trusted_proxy_said(value: bytes, scheme: str) -> None:
    assert build((b"x-forwarded-proto", value)).scheme == scheme
    assert build((b"x-forwarded-proto", value), peer="192.0.2.1").scheme == "http"


def test_a_request_id_is_kept_from_a_trusted_proxy_if_it_is_sane() -> None:
    assert build((b"x-request-id", b"abc-1")).request_id == "abc-1"
    for insane in (b"", b"a" * 129, b"a b", b'a"b', b"\xff", b"-a", b"{}"):
        assert len(build((b"x-request-id", insane)).request_id) == 32
    assert len(build((b"x-request-id", b"x"), (b"x-request-id", b"y")).request_id) == 32
    assert len(build((b"x-request-id", b"abc"), peer="192.0.2.1").request_id) == 32


def test_request_ids_differ() -> None:
    assert len({new_request_id() for _ in range(1000)}) == 1000


def test_trust_knows_networks_of_both_families_and_mapped_addresses() -> None:
    trust = Trust(PROXIES)
    for address in ("10.1.2.3", "fd00::1", "::ffff:10.1.2.3"):
        assert address in trust
    for address in ("11.0.0.1", "fe80::1", "::ffff:11.0.0.1", "", "garbage"):
        assert address not in trust
    assert "10.0.0.1" not in Trust(())


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:0:1", "::ffff:0:1"),
        ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
    ],
)
def test_the_address_of_a_socket_has_one_spelling(address: str, plain: str) -> None:
    assert plain_address(address) == plain


def test_the_remembered_peers_are_bounded() -> None:
    trust = Trust(PROXIES)
    for i in range(10_000):
        assert f"11.0.{i // 250}.{i % 250}" not in trust
    assert len(trust._known) <= 4096


def test_new_settings_bring_a_new_trust_list() -> None:
    builder = RequestBuilder()
    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "scheme": "http", "http_version": "1.1", "client": ("10.0.0.1", 1),
        "headers": [], "extensions": {"gateway.edge": SimpleNamespace(raw_target=b"/", host="")},
    }  # fmt: skip
    assert builder(scope, TRUSTING).trusted
    assert not builder(scope, ServerSettings()).trusted
