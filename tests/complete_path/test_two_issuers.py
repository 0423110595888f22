"""Two issuers in the running gateway: the same name of both is two people, and a reload keeps what was verified."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S
from tests.e2e.conftest import GatewayProcess, Server, permits

pytestmark = pytest.mark.hazard

SECOND = "https://second.example"
ROUTES = """
version: 1
server:
  listen: "127.0.0.1:{port}"
  admin: "127.0.0.1:{admin}"
iam: {url: "IAM", cache: {ttl: 1m}}
identity:
  jwt:
    - {issuer: "https://idp.example", audience: platform, jwks_file: FIRST, headers: {X-Auth-Email: email}}
    - {issuer: "https://second.example", audience: [platform, mobile], jwks_file: SECOND}
upstreams: {app: {url: "UPSTREAM"}}
routes:
  - {id: app, path: /app/*, upstream: app, authorize: ["read thing:app"], on_upstream_failure: {degrade: stale}}
"""

Start = Callable[..., Awaitable[GatewayProcess]]


async def _ask(url: str, path: str, token: str, **headers: str) -> httpx.Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_S) as client:
        return await client.get(path, headers={"authorization": f"Bearer {token}", **fields})


def _second(issuer: Issuer, **claims: Any) -> str:
    return issuer.token("alice", iss=SECOND, **claims)


async def test_the_same_name_of_two_issuers_shares_nothing(
    start_gateway: Start, tmp_path: Path, iam: Server, upstream: Server
) -> None:
    one, two = Issuer(), Issuer()
    for name, issuer in (("first", one), ("second", two)):
        (tmp_path / f"{name}.json").write_bytes(issuer.key_set)
    permitted = True
    iam.answer = permits(lambda _: permitted)
    texts = {"IAM": iam.url, "UPSTREAM": upstream.url, "FIRST": "first.json", "SECOND": "second.json"}
    text = ROUTES
    for name, value in texts.items():
        text = text.replace(f" {name}", f" {value}").replace(f'"{name}"', f'"{value}"')
    gateway = await start_gateway(text)

    token = one.token("alice", email="alice@idp.example")
    answer = await _ask(gateway.url, "/app/x", token, x_auth_email="spoofed", X_Auth_Email="spoofed")
    assert answer.status_code == 200
    assert upstream.seen[-1].values("x-auth-email") == ["alice@idp.example"]
    asked = len(iam.seen)
    assert (await _ask(gateway.url, "/app/x", token)).status_code == 200
    assert len(iam.seen) == asked, "known for a minute"

    permitted = False
    assert (await _ask(gateway.url, "/app/x", _second(two))).status_code == 403, "no permit of the other alice"
    assert (await _ask(gateway.url, "/app/x", token)).status_code == 200
    assert (await _ask(gateway.url, "/app/x", _second(one))).status_code == 401
    assert (await _ask(gateway.url, "/app/x", two.token("alice"))).status_code == 401
    permitted = True

    upstream.answer = lambda _: (503, {}, b"")
    kept = await _ask(gateway.url, "/app/x", token)
    assert kept.status_code == 200
    assert json.loads(kept.content)["target"] == "/app/x"
    other = await _ask(gateway.url, "/app/x", _second(two, aud="mobile"))
    assert other.status_code == 503, "no copy of the other alice"
