"""`--workers 2`: one gateway to everybody outside."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import GatewayProcess
from tests.production.backends import Backend, pid, post, routes, status, until, write
from tests.production.load import Load

pytestmark = pytest.mark.hazard
NEW = "  - {id: new, path: /new/*, upstream: backend, authorize: public}\n"


def _workers(gateway: GatewayProcess) -> list[int]:
    children = Path(f"/proc/{pid(gateway)}/task/{pid(gateway)}/children").read_text().split()
    return [int(child) for child in children]


async def _answers(gateway: GatewayProcess, path: str, times: int = 20) -> list[int]:
    """Each on a connection of its own, so that both workers are asked."""
    found = []
    for _ in range(times):
        async with httpx.AsyncClient(trust_env=False) as client:
            found.append((await client.get(f"{gateway.url}{path}")).status_code)
    return found


async def _all(gateway: GatewayProcess, path: str, status: int) -> bool:
    return set(await _answers(gateway, path)) == {status}


async def test_all_workers_reload_by_signal_by_request_and_by_themselves(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    gateway = await start_gateway(routes(iam, backend), "--workers", "2")
    assert len(_workers(gateway)) == 2
    for how in ("signal", "request", "folder"):
        path = f"/{how}/x"
        assert await _all(gateway, path, 404)
        write(gateway, routes(iam, backend, more=NEW.replace("/new", f"/{how}")))
        if how == "signal":
            os.kill(pid(gateway), signal.SIGHUP)
        elif how == "request":
            assert (await post(gateway, "/-/reload")).json() == {"reloaded": True, "problems": []}
            assert await _all(gateway, path, 200), "who asked for the reload was told that it is done"
        await until(partial(_all, gateway, path, 200), "all workers reloaded")


async def test_a_bad_file_is_refused_by_all_and_told_once(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend), "--workers", "2")
    write(gateway, "version: 1\nroutes: [{id: x, path: /x, upstrem: y}]\n")
    reply = await post(gateway, "/-/reload")
    assert reply.status_code == 422
    assert len(set(reply.json()["problems"])) == len(reply.json()["problems"])
    assert await _all(gateway, "/open/x", 200)
    assert (await status(gateway))["config"]["reload_problems"] == reply.json()["problems"]


async def test_a_worker_that_dies_is_replaced(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend), "--workers", "2")
    before = set(_workers(gateway))
    os.kill(min(before), signal.SIGKILL)

    async def replaced() -> bool:
        now = set(_workers(gateway))
        return len(now) == 2 and now != before and (await status(gateway))["workers"] == 2

    await until(replaced, "another worker")
    assert await _all(gateway, "/open/x", 200)


async def test_workers_end_when_their_supervisor_died(start_gateway: Any, iam: Any, backend: Backend) -> None:
    """Nobody could end them any more, and the port would never be free for the next gateway."""
    gateway = await start_gateway(routes(iam, backend), "--workers", "2")
    workers = _workers(gateway)
    os.kill(pid(gateway), signal.SIGKILL)

    async def gone() -> bool:
        return not any(_alive(worker) for worker in workers)

    await until(gone, "the workers ended")
    assert gateway.process is not None
    await gateway.process.wait()


def _alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


async def test_requests_in_flight_finish_in_every_worker(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="10s"), "--workers", "2")
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as client:
        running = [asyncio.create_task(client.get("/open/x?sleep=2")) for _ in range(20)]

        async def there() -> bool:
            return backend.requests == 20

        await until(there, "all requests at the backend")
        os.kill(pid(gateway), signal.SIGTERM)
        replies = await asyncio.gather(*running)
    assert {(reply.status_code, reply.headers["connection"]) for reply in replies} == {(200, "close")}
    assert gateway.process is not None
    assert await asyncio.wait_for(gateway.process.wait(), 20) == 0


async def test_a_second_signal_ends_them_all(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="60s"), "--workers", "2")
    workers = _workers(gateway)
    load = Load(gateway.port, ("/open/x?sleep=15",), clients=2)
    load.start()

    async def there() -> bool:
        return backend.requests == 2

    await until(there, "requests at the backend")
    os.kill(pid(gateway), signal.SIGTERM)
    await asyncio.sleep(0.2)
    os.kill(pid(gateway), signal.SIGTERM)
    assert gateway.process is not None
    assert await asyncio.wait_for(gateway.process.wait(), 10) == 1
    await asyncio.sleep(0.2)
    assert not any(_alive(worker) for worker in workers)
    await load.stop()


async def test_the_port_is_said_to_be_in_use(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend))
    for arguments in ((), ("--workers", "2")):
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "-c", str(gateway.file), *arguments),
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await asyncio.wait_for(second.communicate(), 30)
        assert second.returncode == 3
        assert b"Traceback" not in errors
        last = errors.decode().strip().splitlines()[-1]
        assert last == f"cannot listen on 127.0.0.1:{gateway.port}: Address already in use"
