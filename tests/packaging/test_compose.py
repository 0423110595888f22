"""What compose.yaml starts, started on loopback: its commands, its configuration, its tokens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.conftest import GatewayProcess, free_port
from tests.production.backends import until

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.hazard


@pytest.fixture
async def run() -> AsyncIterator[Callable[..., Any]]:
    """Starts a service's command without a container."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stderr=asyncio.subprocess.DEVNULL, cwd=ROOT
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_the_composition_allows_denies_and_survives_iam(run: Any, tmp_path: Path) -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    ports = {"gateway": free_port(), "admin": free_port(), "iam": free_port(), "inventory": free_port()}

    def command(name: str) -> list[str]:
        words = [*services[name].get("entrypoint", ["python3", "-m", "gateway"])[1:], *services[name]["command"]]
        places = {"/keys": str(tmp_path), "/etc/gateway/access": "policies/access"}
        return [f"127.0.0.1:{ports[name]}" if word.startswith("0.0.0.0:") else places.get(word, word) for word in words]

    assert await (await run(*command("keys"))).wait() == 0
    iam = await run(*command("iam"))
    await run(*command("inventory"))
    text = (ROOT / "examples/compose/routes.yaml").read_text()
    text = text.replace("/keys/", f"{tmp_path}/").replace("http://iam:8181", f"http://127.0.0.1:{ports['iam']}")
    text = text.replace("http://inventory:9001", f"http://127.0.0.1:{ports['inventory']}")
    text = text.replace("0.0.0.0:8080", f"127.0.0.1:{ports['gateway']}")
    text = text.replace("0.0.0.0:9901", f"127.0.0.1:{ports['admin']}")
    (tmp_path / "routes.yaml").write_text(text)
    environ = {"ADMIN_TOKEN": services["gateway"]["environment"]["ADMIN_TOKEN"]}
    gateway = GatewayProcess(tmp_path / "routes.yaml", ports["gateway"], ports["admin"], environ)
    await gateway.start()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=10) as client:

        async def status(person: str) -> int:
            token = (tmp_path / f"{person}.token").read_text()
            return (await client.get("/inventory/7", headers={"authorization": f"Bearer {token}"})).status_code

        async def allowed() -> bool:
            return await status("alice") == 200

        await until(allowed, "IAM and the system answer")
        assert await status("mallory") == 403
        iam.terminate()
        await iam.wait()
        assert await status("alice") == 503
    await gateway.stop()
