"""Permits outlive the process: killed in the middle of an outage, `degrade: stale` goes on for those who may."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import GatewayProcess
from tests.production.backends import AUTHORIZED, Backend, routes, until

ONE_PERMIT = 290  # bytes: more than a file without any
pytestmark = pytest.mark.hazard


async def _get(gateway: GatewayProcess, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as client:
        return await client.get("/guarded/x", headers=headers)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
async def test_a_restart_in_an_outage_keeps_those_who_were_permitted_and_nobody_else(
    start_gateway: Any, iam: Any, backend: Backend, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "permits"
    every = "200ms" if how == "SIGKILL" else "1h"
    keys = f", cache: {{snapshot: {{path: {file}, every: {every}, key: secret}}}}"
    text = routes(iam, backend, iam_keys=keys).replace(
        "  - id: guarded\n", "  - id: guarded\n    on_iam_failure: {degrade: stale, max_stale: 5m}\n"
    )
    gateway = await start_gateway(text)
    assert (await _get(gateway, **AUTHORIZED)).status_code == 200
    if how == "SIGKILL":
        await until(lambda: _written(file), "the permit in the file")
        assert gateway.process is not None
        gateway.process.kill()
        await gateway.process.wait()
    else:
        assert await gateway.stop() == 0
    await iam.stop()
    again = GatewayProcess(gateway.file, gateway.port, gateway.admin_port)
    await again.start()
    try:
        known = await _get(again, **AUTHORIZED)
        assert (known.status_code, "mode=stale" in known.headers.get("x-gateway-degraded", "")) == (200, True)
        assert (await _get(again, authorization="Bearer somebody-else")).status_code == 503
    finally:
        assert await again.stop() == 0
    assert await asyncio.to_thread(_beside, file) == [("permits", 0o600)]


async def _written(file: Path) -> bool:
    return await asyncio.to_thread(lambda: file.exists() and file.stat().st_size > ONE_PERMIT)


def _beside(file: Path) -> list[tuple[str, int]]:
    return [(path.name, path.stat().st_mode & 0o777) for path in file.parent.glob("*permits*")]
