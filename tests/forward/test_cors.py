"""CORS, answered by the gateway (Fetch standard, section 3.2)."""

from __future__ import annotations

import pytest

from gateway.forward.cors import preflight, response_headers
from gateway.model.request import Headers
from gateway.model.route import Cors
from tests.forward.conftest import a_request, a_route

APP = b"https://app.example"
NAMED = Cors(origins=frozenset({APP.decode()}), max_age_s=600.0)
ANY = Cors(origins=frozenset({"*"}))
WITH_COOKIES = Cors(origins=frozenset({"*"}), credentials=True)


def asked(*extra: tuple[bytes, bytes], origin: bytes = APP) -> Headers:
    return [(b"origin", origin), (b"access-control-request-method", b"PUT"), *extra]


def test_a_preflight_is_answered_with_what_the_route_allows() -> None:
    route = a_route(cors=NAMED, methods=frozenset({"GET", "PUT", "OPTIONS"}))
    headers = asked((b"access-control-request-headers", b"Authorization, X-Thing"))
    answer = preflight(route, a_request("OPTIONS", headers=headers))
    assert answer is not None
    status, said = answer
    assert status == 204
    assert dict(said) == {
        b"vary": b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        b"access-control-allow-origin": APP,
        b"access-control-allow-methods": b"GET, OPTIONS, PUT",
        b"access-control-allow-headers": b"Authorization, X-Thing",
        b"access-control-max-age": b"600",
    }


@pytest.mark.parametrize(
    "origin", [b"https://evil.example", b"https://app.example.evil", b"HTTPS://APP.EXAMPLE", b"null"]
)
def test_an_origin_that_is_not_named_gets_no_permission(origin: bytes) -> None:
    answer = preflight(a_route(cors=NAMED), a_request("OPTIONS", headers=asked(origin=origin)))
    assert answer is not None
    assert answer[0] == 204
    assert [name for name, _ in answer[1]] == [b"vary"]
    assert response_headers(NAMED, a_request(headers=[(b"origin", origin)])) == [(b"vary", b"Origin")]


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", []),
        ("OPTIONS", [(b"origin", APP)]),
        ("OPTIONS", [(b"access-control-request-method", b"PUT")]),
        ("GET", asked()),
    ],
)
def test_what_is_no_preflight_is_a_request_like_any_other(method: str, headers: Headers) -> None:
    assert preflight(a_route(cors=NAMED), a_request(method, headers=headers)) is None


def test_without_cors_nothing_is_a_preflight() -> None:
    assert preflight(a_route(), a_request("OPTIONS", headers=asked())) is None


def test_answers_expose_what_a_caller_needs_to_come_back() -> None:
    said = dict(response_headers(NAMED, a_request(headers=[(b"origin", APP)])))
    assert said[b"access-control-allow-origin"] == APP
    assert said[b"access-control-expose-headers"] == b"Retry-After, X-Request-ID, X-Gateway-Degraded"
    assert b"access-control-allow-credentials" not in said


def test_any_origin_is_a_star_but_with_credentials_the_origin_itself() -> None:
    request = a_request(headers=[(b"origin", APP)])
    assert dict(response_headers(ANY, request))[b"access-control-allow-origin"] == b"*"
    said = dict(response_headers(WITH_COOKIES, request))
    assert said[b"access-control-allow-origin"] == APP
    assert said[b"access-control-allow-credentials"] == b"true"


def test_two_origins_are_none() -> None:
    request = a_request(headers=[(b"origin", APP), (b"origin", APP)])
    assert response_headers(NAMED, request) == [(b"vary", b"Origin")]


@pytest.mark.parametrize("names", [b"x\x80", b"x" * 5000, b"a;b"])
def test_odd_header_names_are_not_granted(names: bytes) -> None:
    answer = preflight(
        a_route(cors=NAMED), a_request("OPTIONS", headers=asked((b"access-control-request-headers", names)))
    )
    assert answer is not None
    assert b"access-control-allow-headers" not in dict(answer[1])
