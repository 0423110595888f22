"""On a route with `cors` preflights are answered here; any other OPTIONS is a request, and a method like any."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.hazard

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam}"}}
identity: {{opaque: {{}}}}
upstreams: {{a: {{url: "{upstream}"}}}}
routes:
  - {{id: a, path: /a, upstream: a, authorize: public, methods: [GET], cors: {{origins: ["https://app.example"]}}}}
"""
PREFLIGHT = {"origin": "https://app.example", "access-control-request-method": "GET"}


async def test_an_options_that_is_no_preflight_needs_to_be_a_method(
    start_gateway: Any, iam: Any, upstream: Any
) -> None:
    gateway = await start_gateway(ROUTES.format(iam=iam.url, upstream=upstream.url))
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        preflight = await client.options("/a", headers=PREFLIGHT)
        plain = await client.options("/a", headers={"origin": "https://app.example"})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-methods"] == "GET, HEAD"
    assert (plain.status_code, plain.headers["allow"]) == (405, "GET, HEAD")
    assert plain.headers["access-control-allow-origin"] == "https://app.example"
    assert upstream.seen == []
