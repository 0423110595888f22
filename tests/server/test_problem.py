"""Errors as the caller sees them (docs/errors.md)."""

from __future__ import annotations

import json
import math

import pytest

from gateway.errors import KINDS, GatewayError
from gateway.problem import render, spread_retry_after


@pytest.mark.parametrize("code", KINDS)
def test_every_code_renders_as_the_contract_says(code: str) -> None:
    error = GatewayError(code)
    status, headers, body = render(error, server_name="edge", request_id="abc", route="inventory")
    fields, document = dict(headers), json.loads(body)
    assert status == document["status"] == error.kind.status
    assert document["type"] == f"urn:gateway:problem:{code}"
    assert document["code"] == code
    assert document["route"] == "inventory"
    assert document["detail"]
    assert document["request_id"] == "abc"
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"cache-control"] == b"no-store"
    assert fields[b"x-request-id"] == b"abc"
    assert fields[b"proxy-status"] == f"edge; error={error.kind.proxy_error}".encode()
    assert (b"retry-after" in fields) == error.kind.retry_after == ("retry_after" in document)
    if error.kind.retry_after:
        assert int(fields[b"retry-after"]) == document["retry_after"] >= 1


def test_the_contracts_example() -> None:
    _, headers, body = render(
        GatewayError("iam_circuit_open", retry_after_s=6.2), server_name="edge", request_id="0f9c", retry_after=7
    )
    assert json.loads(body) == {
        "type": "urn:gateway:problem:iam_circuit_open",
        "title": "Authorization service unavailable",
        "status": 503,
        "code": "iam_circuit_open",
        "detail": "Access could not be checked, so nothing was forwarded. Try again in 7 seconds.",
        "retry_after": 7,
        "request_id": "0f9c",
    }
    assert (b"retry-after", b"7") in headers


def test_a_denial_never_says_when_to_retry() -> None:
    _, headers, body = render(
        GatewayError("iam_denied", retry_after_s=5), server_name="edge", request_id="a", retry_after=9
    )
    assert b"retry-after" not in dict(headers)
    assert "retry_after" not in json.loads(body)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.5, 1.0, 6.2, 7.0, 29.9, 300.0])
def test_retry_after_is_spread_upwards_by_at_most_a_fifth(seconds: float) -> None:
    seen = {spread_retry_after(seconds) for _ in range(500)}
    assert min(seen) >= max(1, math.ceil(seconds))
    assert max(seen) <= max(1, math.ceil(seconds * 1.2))
    assert len(seen) > 1 or math.ceil(seconds) >= math.ceil(seconds * 1.2) - 1


@pytest.mark.parametrize("seconds", [None, 0.0, 0.3, 1.0])
def test_where_nobody_knows_how_long_retry_after_is_one(seconds: float | None) -> None:
    error = GatewayError("iam_timeout", retry_after_s=seconds)
    for _ in range(50):
        _, headers, _ = render(error, server_name="edge", request_id="a")
        assert (b"retry-after", b"1") in headers


def test_one_second_is_singular_and_an_exact_error_type_and_extra_fields_stand() -> None:
    error = GatewayError("upstream_unreachable", proxy_error="dns_error", headers=((b"x", b"y"),))
    _, headers, _ = render(error, server_name="front", request_id="a")
    assert (b"proxy-status", b"front; error=dns_error") in headers
    assert (b"x", b"y") in headers
    _, _, body = render(GatewayError("overloaded"), server_name="edge", request_id="a", retry_after=1)
    assert json.loads(body)["detail"].endswith("Try again in 1 second.")
