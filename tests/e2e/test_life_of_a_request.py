"""The whole path on real sockets: allowed, denied, unauthenticated, and an IAM that dies and comes back."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.hazard

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam}", timeout: {{connect: 1s, read: 500ms, total: 800ms}}, circuit_breaker: {{open_for: 6s}}}}
identity: {{opaque: {{}}}}
upstreams: {{inventory: {{url: "{upstream}"}}}}
routes:
  - id: inventory
    path: /inventory/*
    upstream: inventory
    authorize: ["read system:inventory", "use route:{{route.path}}", "{{method}} host:{{header.x-tenant}}"]
  - {{id: open, path: /open/*, upstream: inventory, authorize: public}}
"""


def _routes(iam: Any, upstream: Any) -> str:
    return ROUTES.format(iam=iam.url, upstream=upstream.url)


def _asked(iam: Any) -> int:
    """How often IAM was asked for callers: the gateway's own harmless question comes when it comes."""
    return sum(b'"type":"gateway"' not in seen.body for seen in iam.seen)


HEADERS = {"authorization": "Bearer allow", "x-tenant": "north"}


async def test_a_request_with_three_checks_makes_one_iam_call(start_gateway: Any, iam: Any, upstream: Any) -> None:
    gateway = await start_gateway(_routes(iam, upstream))
    async with httpx.AsyncClient(base_url=gateway.url, headers=HEADERS) as client:
        reply = await client.get("/inventory/7?a=1&a=2")
    assert reply.status_code == 200
    assert reply.json()["target"] == "/inventory/7?a=1&a=2"
    assert len(iam.seen) == 1
    evaluations = json.loads(iam.seen[0].body)["evaluations"]
    assert [evaluation["resource"]["id"] for evaluation in evaluations] == ["inventory", "/inventory/*", "north"]


async def test_a_denial_is_403_without_retry_after_and_reaches_nobody(
    start_gateway: Any, iam: Any, upstream: Any
) -> None:
    gateway = await start_gateway(_routes(iam, upstream))
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        reply = await client.get("/inventory/7", headers={**HEADERS, "authorization": "Bearer deny"})
        assert (reply.status_code, reply.json()["code"]) == (403, "iam_denied")
        assert "retry-after" not in reply.headers
        missing = await client.get("/inventory/7")
        assert (missing.status_code, missing.json()["code"]) == (401, "unauthenticated")
        assert missing.headers["www-authenticate"].startswith("Bearer")
    assert not upstream.seen


@pytest.mark.parametrize("fault", ["killed", "hanging"])
async def test_iam_failing_opens_the_circuit_and_its_return_closes_it(
    start_gateway: Any, iam: Any, upstream: Any, fault: str
) -> None:
    """The first fail within timeout.total; then a burst is answered at once without a call; one trial heals."""
    gateway = await start_gateway(_routes(iam, upstream))
    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(base_url=gateway.url, headers=HEADERS, limits=limits, timeout=30) as client:
        assert (await client.get("/inventory/7")).status_code == 200
        if fault == "killed":
            await iam.stop()
        else:
            iam.mode = "hang"
        await asyncio.sleep(1.1)  # what answered within the last second is not down
        for _ in range(5):
            begun = time.monotonic()
            reply = await client.get("/inventory/7")
            assert reply.status_code == 503
            assert reply.json()["code"] in {"iam_unreachable", "iam_timeout"}
            assert time.monotonic() - begun < 0.8 + 2.0
        calls = _asked(iam)
        replies = await asyncio.gather(*(client.get("/inventory/7") for _ in range(200)))
        assert {reply.json()["code"] for reply in replies} == {"iam_circuit_open"}
        assert all(1 <= int(reply.headers["retry-after"]) <= 8 for reply in replies)
        assert all(int(reply.headers["retry-after"]) == reply.json()["retry_after"] for reply in replies)
        assert _asked(iam) == calls
        assert (await client.get("/open/x")).status_code == 200
        if fault == "killed":
            await iam.start()
        iam.mode = "ok"
        await asyncio.sleep(6.2)
        calls = _asked(iam)
        assert (await client.get("/inventory/7")).status_code == 200
        assert _asked(iam) == calls + 1


async def test_nothing_is_forwarded_while_iam_cannot_answer(start_gateway: Any, iam: Any, upstream: Any) -> None:
    gateway = await start_gateway(_routes(iam, upstream))
    iam.mode = "errors"
    async with httpx.AsyncClient(base_url=gateway.url, headers=HEADERS) as client:
        replies = [await client.post("/inventory/7", content=b"x") for _ in range(7)]
    assert {reply.status_code for reply in replies} == {503}
    assert not upstream.seen


async def test_the_token_is_nowhere_in_what_the_gateway_writes(start_gateway: Any, iam: Any, upstream: Any) -> None:
    gateway = await start_gateway(_routes(iam, upstream))
    secret = "s3cr3t-t0ken"
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        await client.get("/inventory/7?token=" + secret, headers={**HEADERS, "authorization": f"Bearer {secret}"})
        iam.mode = "errors"
        await client.get("/inventory/7", headers={**HEADERS, "authorization": f"Bearer {secret}"})
    await gateway.stop()
    assert b"iam_denied" in gateway.output
    assert secret.encode() not in gateway.output + gateway.errors
