"""Header fields on their way through, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.headers import (
    CREDENTIALS,
    HeaderRules,
    client_response_headers,
    connection_options,
    upstream_request_headers,
    visible,
)
from gateway.model.request import Header, Headers, Request, Subject, Target
from gateway.model.settings import ServerSettings

RULES = HeaderRules(ServerSettings())


def request(*headers: Header, **keys: Any) -> Request:
    facts: dict[str, Any] = {
        "method": "GET",
        "target": Target(b"/a", b"/a", b"", ("a",)),
        "headers": list(headers),
        "host": "gateway.test:8080",
        "scheme": "https",
        "peer": "10.0.0.1",
        "client": "10.0.0.1",
        "trusted": False,
        "request_id": "id1",
    }
    return Request(**(facts | keys))


def sent(*headers: Header, rules: HeaderRules = RULES, host: bytes | None = b"up:9001", **keys: Any) -> Headers:
    names = {"subject", "traceparent", "prefix", "degraded", "withhold"}
    added = {name: value for name, value in keys.items() if name in names}
    facts = {name: value for name, value in keys.items() if name not in names}
    return upstream_request_headers(request(*headers, **facts), rules=rules, host=host, **added)


def test_what_the_upstream_gets_of_a_plain_request() -> None:
    assert sent((b"host", b"gateway.test:8080"), (b"authorization", b"Bearer a"), (b"cookie", b"a=1")) == [
        (b"host", b"up:9001"),
        (b"authorization", b"Bearer a"),
        (b"cookie", b"a=1"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"gateway.test:8080"),
        (b"via", b"1.1 edge"),
        (b"x-request-id", b"id1"),
    ]


def test_end_to_end_fields_pass_in_order_and_repeated_ones_stay_apart() -> None:
    fields = [
        (b"x-a", b"1"),
        (b"accept", b"*/*"),
        (b"x-a", b"2"),
        (b"cookie", b"a"),
        (b"cookie", b"b"),
        (b"via", b"1.0 x"),
    ]
    headers = sent(*fields)
    assert headers[1 : 1 + len(fields)] == fields
    assert headers.count((b"via", b"1.1 edge")) == 1


SPOOFED = [
    "x-auth-subject", "x-auth-user", "x-gateway-degraded", "x-gateway-anything", "x-authenticated-user", "x-user",
    "x-user-id", "x-username", "remote-user", "x-remote-user", "x-remote-group", "x-forwarded-for", "x-forwarded-user",
    "x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix", "x-forwarded-client-cert", "forwarded", "x-real-ip",
    "proxy", "x-original-url", "x-original-uri", "x-rewrite-url", "x-http-method", "x-http-method-override",
    "x-method-override",
]  # fmt: skip
HOP_BY_HOP = [
    "connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "te", "trailer",
    "transfer-encoding", "upgrade", "expect", "http2-settings", "content-length", "host", "sec-websocket-key",
]  # fmt: skip


@pytest.mark.parametrize("name", SPOOFED + HOP_BY_HOP)
@pytest.mark.parametrize("trusted", [False, True])
def test_what_no_upstream_may_believe_is_removed_in_every_spelling(name: str, trusted: bool) -> None:
    spellings = {name, name.replace("-", "_"), name.replace("-", "."), name.replace("-", "_", 1)}
    for spelling in spellings:
        headers = sent((spelling.encode(), b"evil"), trusted=trusted)
        values = [value for key, value in headers if not (trusted and key in (b"x-forwarded-for", b"x-forwarded-host"))]
        assert b"evil" not in values, spelling


@given(st.text("abcdexu-_.f", min_size=1, max_size=12).map(str.encode))
def test_other_names_pass(name: bytes) -> None:
    if not name.replace(b"_", b"-").replace(b".", b"-").startswith((b"x-u", b"x-f", b"x-a")) and name != b"te":
        assert (name, b"v") in sent((name, b"v"))


def test_names_of_the_configuration_are_removed_too() -> None:
    rules = HeaderRules(ServerSettings(strip_request_headers=frozenset({b"X-Tenant", b"x-internal-*"})))
    headers = sent(
        (b"x-tenant", b"1"), (b"x_tenant", b"1"), (b"x-internal-a", b"1"), (b"x-internal", b"1"), rules=rules
    )
    assert [name for name, value in headers if value == b"1"] == [b"x-internal"]


IDENTITY_SPELLINGS = [b"x-webauth-user", b"x-webauth_user", b"x_webauth_user", b"x.webauth.user", b"x-webauth.user"]


@pytest.mark.parametrize("configured", [b"x-webauth-user", b"x_webauth_user"])
def test_the_field_of_the_identity_is_removed_in_all_spellings_but_where_it_is_the_identity(configured: bytes) -> None:
    rules = HeaderRules(ServerSettings(), configured)
    fields = [(name, b"admin") for name in IDENTITY_SPELLINGS]
    subject = Subject(type="identity", id="alice", key="alice", document="{}")
    for facts in ({}, {"subject": subject}, {"trusted": True}):
        assert b"admin" not in dict(sent(*fields, rules=rules, **facts)).values()
    kept = [name for name, value in sent(*fields, rules=rules, trusted=True, subject=subject) if value == b"admin"]
    assert kept == [configured]


@pytest.mark.parametrize("configured", [b"x-user", b"x-forwarded-user", b"remote-user", b"x-remote-user"])
def test_a_trusted_proxys_identity_stays_under_a_name_that_is_removed_from_others(configured: bytes) -> None:
    rules = HeaderRules(ServerSettings(), configured)
    subject = Subject(type="identity", id="alice", key="alice", document="{}")
    field = (configured, b"alice")
    assert field in sent(field, rules=rules, trusted=True, subject=subject)
    for facts in ({}, {"subject": subject}, {"trusted": True}):
        assert field not in sent(field, rules=rules, **facts)


@pytest.mark.parametrize("configured", [b"x-auth-subject", b"x-gateway-user", b"x-forwarded-for", b"x-tenant-user"])
def test_what_the_gateway_writes_or_is_told_to_remove_is_removed_from_a_trusted_proxy_too(configured: bytes) -> None:
    rules = HeaderRules(ServerSettings(strip_request_headers=frozenset({b"x-tenant-*"})), configured)
    subject = Subject(type="identity", id="alice", key="alice", document="{}")
    assert (configured, b"eve") not in sent((configured, b"eve"), rules=rules, trusted=True, subject=subject)


def test_what_only_a_trusted_proxy_knows_is_kept_and_its_prefix_goes_first() -> None:
    port, outer = (b"x-forwarded-port", b"8443"), (b"x-forwarded-prefix", b"/outer")
    assert {port, outer} <= set(sent(port, outer, trusted=True))
    assert (b"x-forwarded-prefix", b"/outer/app") in sent(outer, trusted=True, prefix=b"/app")
    assert (b"x-forwarded-prefix", b"/outer/app") in sent((outer[0], b"/outer/"), trusted=True, prefix=b"/app")
    assert dict(sent(port, outer, prefix=b"/app"))[b"x-forwarded-prefix"] == b"/app"
    assert b"x-forwarded-port" not in dict(sent(port, outer))


@pytest.mark.parametrize("value", [b"", b"/", b"outer", b"//x", b"/a b", b"/a,/b", b"/a?b", b"http://x/a"])
def test_an_odd_prefix_or_port_of_a_trusted_proxy_says_nothing(value: bytes) -> None:
    headers = sent((b"x-forwarded-prefix", value), (b"x-forwarded-port", value), trusted=True, prefix=b"/app")
    assert dict(headers)[b"x-forwarded-prefix"] == b"/app"
    assert b"x-forwarded-port" not in dict(headers)


def test_of_two_outer_hosts_neither_is_believed() -> None:
    one, other = (b"x-forwarded-host", b"one.test"), (b"x-forwarded-host", b"other.test")
    assert dict(sent(one, trusted=True))[b"x-forwarded-host"] == b"one.test"
    assert dict(sent(one, other, trusted=True))[b"x-forwarded-host"] == b"gateway.test:8080"


def test_a_prefix_or_port_given_twice_says_nothing() -> None:
    twice = [(b"x-forwarded-prefix", b"/a"), (b"x-forwarded-port", b"1")] * 2
    assert {b"x-forwarded-prefix", b"x-forwarded-port"}.isdisjoint(dict(sent(*twice, trusted=True)))


def test_what_connection_names_goes_too() -> None:
    headers = sent(
        (b"connection", b"keep-alive, X-Custom"),
        (b"x-custom", b"1"),
        (b"connection", b"x-other"),
        (b"x-other", b"2"),
        (b"x", b"3"),
    )
    assert {b"x-custom", b"x-other"}.isdisjoint(name for name, _ in headers)
    assert (b"x", b"3") in headers


@pytest.mark.parametrize("name", [b"via", b"x-auth-subject", b"traceparent"])
def test_connection_cannot_take_off_what_the_gateway_adds(name: bytes) -> None:
    subject = Subject(type="identity", id="alice", key="alice", document="{}")
    headers = sent((b"connection", name), subject=subject, traceparent=b"00-1")
    assert name in dict(headers)


@pytest.mark.parametrize(
    "name",
    [b"Authorization", b"host", b"Content-Length", b"cookie", b"X-Request-ID", b"x-forwarded-for", b"X-Forwarded-Any"],
)
def test_connection_must_not_name_what_carries_a_decision(name: bytes) -> None:
    with pytest.raises(GatewayError) as raised:
        connection_options([b"close", b"a, " + name])
    assert raised.value.code == "bad_request"


def test_the_chain_of_a_trusted_proxy_is_continued_and_anybody_elses_begun_anew() -> None:
    given_fields = [
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-for", b"5.6.7.8"),
        (b"x-forwarded-host", b"api.test"),
    ]
    ours = dict(sent(*given_fields, trusted=True, client="5.6.7.8"))
    assert ours[b"x-forwarded-for"] == b"1.2.3.4, 5.6.7.8, 10.0.0.1"
    assert ours[b"x-forwarded-host"] == b"api.test"
    ours = dict(sent(*given_fields))
    assert ours[b"x-forwarded-for"] == b"10.0.0.1"
    assert ours[b"x-forwarded-host"] == b"gateway.test:8080"


def test_trace_context_goes_on_from_trusted_proxies_and_ours_replaces_it() -> None:
    fields = [(b"traceparent", b"00-theirs"), (b"tracestate", b"a=b"), (b"baggage", b"user=admin")]
    assert {b"traceparent", b"tracestate", b"baggage"}.isdisjoint(dict(sent(*fields)))
    assert dict(sent(*fields, traceparent=b"00-ours"))[b"traceparent"] == b"00-ours"
    believed = sent(*fields, trusted=True)
    assert [field for field in fields if field in believed] == fields
    replaced = sent(*fields, trusted=True, traceparent=b"00-ours")
    assert [value for name, value in replaced if name == b"traceparent"] == [b"00-ours"]


def test_the_subject_is_named_only_if_somebody_was_identified() -> None:
    alice = Subject(type="identity", id="alice", key="alice", document="{}")
    token = Subject(type="token", id="secret", key="sha", document="{}", identified=False)
    assert dict(sent(subject=alice))[b"x-auth-subject"] == b"alice"
    odd = Subject(type="identity", id="a\r\nX: ä", key="a", document="{}")
    assert dict(sent(subject=odd))[b"x-auth-subject"] == b"a%0D%0AX:%20%C3%A4"
    assert b"x-auth-subject" not in dict(sent(subject=token))
    assert b"x-auth-subject" not in dict(sent())


@given(st.text(), st.text())
def test_a_subject_is_visible_ascii_and_no_two_look_alike(one: str, other: str) -> None:
    one, other = (text.encode(errors="replace").decode() for text in (one, other))
    assert all(0x21 <= byte <= 0x7E for byte in visible(one))
    assert (visible(one) == visible(other)) == (one == other)


def test_a_readable_subject_stays_readable() -> None:
    assert visible("john.doe@wheels.com") == b"john.doe@wheels.com"
    assert visible("auth0|5f7c\r\nX: 1 é%") == b"auth0|5f7c%0D%0AX:%201%20%C3%A9%25"


def test_the_callers_host_prefix_degraded_and_withheld_fields() -> None:
    headers = sent(
        (b"authorization", b"a"), (b"cookie", b"b"), (b"x", b"c"),
        host=None, prefix=b"/inventory", degraded=b"iam; mode=stale; age=12", withhold=CREDENTIALS,
    )  # fmt: skip
    assert headers[0] == (b"host", b"gateway.test:8080")
    assert (b"x-forwarded-prefix", b"/inventory") in headers
    assert (b"x-gateway-degraded", b"iam; mode=stale; age=12") in headers
    assert {b"authorization", b"cookie"}.isdisjoint(dict(headers))


def test_a_1_0_request_says_so_in_via_and_may_have_no_host() -> None:
    headers = dict(sent(http_version="1.0"))
    assert headers[b"via"] == b"1.0 edge"
    assert b"x-forwarded-host" not in dict(upstream_request_headers(request(host=""), rules=RULES, host=b"up"))


def test_names_that_clients_invent_do_not_fill_the_memory() -> None:
    rules = HeaderRules(ServerSettings())
    for i in range(10_000):
        rules.learn(b"x-%d" % i)
        rules.learn(b"x" * 1000 + b"%d" % i)
    assert len(rules.verdicts) == 4096
    assert max(map(len, rules.verdicts)) <= 64
    assert (b"x-9999", b"v") in sent((b"x-9999", b"v"), rules=rules)


def test_a_response_loses_what_was_for_the_gateway_and_keeps_the_rest() -> None:
    headers = client_response_headers(
        [
            (b"connection", b"close, X-Hop"), (b"x-hop", b"1"), (b"keep-alive", b"timeout=5"), (b"trailer", b"X"),
            (b"transfer-encoding", b"chunked"), (b"upgrade", b"h2c"), (b"proxy-authenticate", b"Basic"),
            (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-length", b"5"), (b"date", b"today"),
            (b"x-request-id", b"theirs"), (b"via", b"1.1 inner"), (b"server", b"origin"),
        ],
        via=b"1.1 edge",
        request_id="id1",
    )  # fmt: skip
    assert headers == [
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"content-length", b"5"),
        (b"date", b"today"),
        (b"via", b"1.1 inner"),
        (b"server", b"origin"),
        (b"via", b"1.1 edge"),
        (b"x-request-id", b"id1"),
    ]


def test_an_upstream_may_name_anything_in_connection() -> None:
    """It can only take its own fields off."""
    assert client_response_headers([(b"connection", b"content-length")], via=b"v", request_id="i")[0][0] == b"via"
