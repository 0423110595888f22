"""The decision listener of a running gateway, alone and with workers: it decides, is reloaded, and drains."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import GatewayProcess, free_port

pytestmark = pytest.mark.hazard

ROUTES = """
version: 1
server:
  listen: 127.0.0.1:{public}
  admin: 127.0.0.1:{admin}
  trusted_proxies: [127.0.0.1]
  decisions: {{listen: 127.0.0.1:{decisions}}}
  drain_notice: 0s
iam: {{api: embedded}}
identity: {{opaque: {{}}}}
routes:
  - {{id: orders, path: /{path}/*, authorize: ["read system:orders"]}}
"""
POLICY = 'permit(principal, action == Action::"read", resource == System::"orders");'


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_it_decides_and_follows_a_reload_and_ends_cleanly(tmp_path: Path, workers: str) -> None:
    ports = {"public": free_port(), "admin": free_port(), "decisions": free_port()}
    (tmp_path / "policies" / "access").mkdir(parents=True)
    (tmp_path / "policies" / "access" / "orders.cedar").write_text(POLICY)
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES.format(**ports, path="orders"))
    gateway = GatewayProcess(file, ports["public"], ports["admin"], arguments=("--workers", workers))
    await gateway.start()
    token = {"Authorization": "Bearer t"}
    asking = {**token, "X-Forwarded-Method": "GET"}
    try:
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{ports['decisions']}") as proxy:
            assert (await proxy.get("/envoy/orders/7", headers=token)).status_code == 200
            assert (await proxy.get("/traefik", headers={**asking, "X-Forwarded-Uri": "/orders/7"})).status_code == 200
            assert (await proxy.get("/traefik", headers={**asking, "X-Forwarded-Uri": "/other"})).status_code == 404
            assert (await proxy.post("/caddy", headers={"X-Forwarded-Uri": "/orders/7"})).status_code == 400
            assert (await proxy.get("/orders/7", headers=token)).status_code == 400
            public = await proxy.get(f"{gateway.url}/orders/7", headers=token)
            assert (public.status_code, public.json()["code"]) == (404, "route_not_found")
            file.write_text(ROUTES.format(**ports, path="moved"))
            answer = await proxy.get("/envoy/moved/7", headers=token)
            for _ in range(200):
                if answer.status_code == 200:
                    break
                await asyncio.sleep(0.1)
                answer = await proxy.get("/envoy/moved/7", headers=token)
            assert answer.status_code == 200
    finally:
        assert await gateway.stop() == 0
    assert f"decisions http://127.0.0.1:{ports['decisions']}" in gateway.errors.decode()
