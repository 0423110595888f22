"""What `gateway serve` is told on its command line holds to the same rules as its file."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import GatewayProcess, free_port
from tests.production.backends import Backend, routes, write

pytestmark = pytest.mark.hazard


async def _serve(file: Path, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "-c", str(file), *arguments), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, errors.decode().strip().splitlines()[-1]


async def test_the_admin_listener_leaves_loopback_only_with_a_token(tmp_path: Path, iam: Any, backend: Backend) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(routes(iam, backend).replace("{port}", "0").replace("{admin}", "0"))
    code, line = await _serve(file, "--admin", "0.0.0.0:9999")
    assert (code, line) == (
        1,
        "the admin listener on 0.0.0.0:9999 is not on loopback: it needs server.admin_token",
    )
    code, line = await _serve(file, "--admin", "127.0.0.1:9999", "--listen", "127.0.0.1:9999")
    assert (code, line) == (1, "both listeners can't be on 127.0.0.1:9999")


async def test_a_reload_cannot_take_the_token_away(tmp_path: Path, iam: Any, backend: Backend) -> None:
    admin = free_port()
    gateway = GatewayProcess(tmp_path / "routes.yaml", free_port(), admin, {}, ("--admin", f"0.0.0.0:{admin}"))
    write(gateway, routes(iam, backend, server=", admin_token: secret").replace("{admin}", "0"))
    await gateway.start()
    write(gateway, routes(iam, backend).replace("{admin}", "0"))
    headers = {"authorization": "Bearer secret", "x-gateway-admin": "1"}
    async with httpx.AsyncClient(base_url=gateway.admin, headers=headers, trust_env=False) as client:
        reply = await client.post("/-/reload")
    assert reply.status_code == 422
    assert "it needs server.admin_token" in reply.json()["problems"][0]
    assert await gateway.stop() == 0
