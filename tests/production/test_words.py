"""What `serve` says on stderr: that it serves and what, reloads, what operators do, and how it ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from gateway import __version__
from tests.e2e.conftest import GatewayProcess
from tests.production.backends import Backend, pid, post, routes, status, until, write

pytestmark = pytest.mark.hazard
NEW = "  - {id: new, path: /new/*, upstream: backend, authorize: public, methods: [GET]}\n"
BROKEN = "version: 1\nroutes: [{id: x, path: /x, upstrem: y}]\nserver: {nmae: x}\n"


def _lines(gateway: GatewayProcess, holding: str = "") -> list[str]:
    return [line for line in gateway.errors.decode().splitlines() if holding in line]


async def _said(gateway: GatewayProcess, holding: str, times: int = 1) -> list[str]:
    async def there() -> bool:
        return len(_lines(gateway, holding)) >= times

    await until(there, f"a line with {holding!r}")
    return _lines(gateway, holding)


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_says_what_it_serves_and_how_it_ended(
    start_gateway: Any, iam: Any, backend: Backend, workers: int
) -> None:
    gateway = await start_gateway(routes(iam, backend), "--workers", str(workers))
    (line,) = await _said(gateway, " serves ")
    for fact in (
        __version__,
        str(gateway.file),
        f"http://127.0.0.1:{gateway.port}",
        f"admin http://127.0.0.1:{gateway.admin_port}",
        "2 routes",
        f"IAM authzen at {iam.url}",
        "1 warning",
    ):
        assert fact in line
    assert len(_lines(gateway, "warning[")) == 1
    assert await gateway.stop() == 0
    (draining,) = _lines(gateway, "draining")
    assert "(SIGTERM)" in draining
    assert len(_lines(gateway, "INFO stopped: ")) == 1


async def test_what_did_not_end_in_time_is_said(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="300ms"))
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /open/x?sleep=15 HTTP/1.1\r\nHost: test\r\n\r\n")

    async def there() -> bool:
        return backend.requests == 1

    await until(there, "the request at the backend")
    assert await gateway.stop() == 0
    assert "1 request did not end within server.drain_timeout" in _lines(gateway, "stopped")[0]
    writer.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_is_said(start_gateway: Any, iam: Any, backend: Backend, workers: int) -> None:
    gateway = await start_gateway(routes(iam, backend, server=", drain_notice: 30s"), "--workers", str(workers))
    os.kill(pid(gateway), signal.SIGTERM)
    await _said(gateway, "draining")
    os.kill(pid(gateway), signal.SIGTERM)
    assert gateway.process is not None
    assert await asyncio.wait_for(gateway.process.wait(), 10) == 1
    await _said(gateway, "stopped by a second signal")


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_reload_is_told_once_with_every_mistake_on_a_line_of_its_own(
    start_gateway: Any, iam: Any, backend: Backend, workers: int
) -> None:
    gateway = await start_gateway(routes(iam, backend), "--workers", str(workers))
    os.kill(pid(gateway), signal.SIGHUP)
    await _said(gateway, "is unchanged (by SIGHUP)")
    write(gateway, BROKEN)
    problems = (await post(gateway, "/-/reload")).json()["problems"]
    assert len(problems) > 1
    await _said(gateway, problems[-1])
    await asyncio.sleep(0.7)  # the change of the folder was seen, too, and found the same
    told = [line.split("[config] ", 1)[1] for line in _lines(gateway, "ERROR [config]")]
    heads = [
        line for line in told if line.startswith("the configuration was not reloaded, the previous one stays in use")
    ]
    assert all(f"in use: {len(problems)} mistakes in " in head for head in heads)
    by = [head.rpartition(" (by ")[2] for head in heads]
    assert by in (["the admin listener)"], ["a change of its folder)", "the admin listener)"])
    assert [line for line in told if line not in heads] == problems * len(heads)
    assert not _lines(gateway, r"\u000a")
    write(gateway, routes(iam, backend, more=NEW))
    await post(gateway, "/-/reload")
    await _said(gateway, "has changed and is in use now, 3 routes")
    await asyncio.sleep(0.5)
    assert len(_lines(gateway, "has changed and is in use now")) == 1
    assert await gateway.stop() == 0


async def test_a_file_that_is_repaired_is_told(start_gateway: Any, iam: Any, backend: Backend) -> None:
    """Nobody asks: only the folder changes. The last line must not stay an error."""
    text = routes(iam, backend)
    gateway = await start_gateway(text)
    write(gateway, BROKEN)
    await _said(gateway, "ERROR [config]", 2)
    write(gateway, gateway.file.read_text().replace(BROKEN, text))
    (line,) = await _said(gateway, "is unchanged (by a change of its folder)")
    assert "INFO" in line
    assert (await status(gateway))["config"]["reload_problems"] == []
    assert await gateway.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_operators_leave_a_line_each(start_gateway: Any, iam: Any, backend: Backend, workers: int) -> None:
    gateway = await start_gateway(routes(iam, backend), "--workers", str(workers))
    paths = ["/breakers/iam/open", "/breakers/iam/auto", "/breakers/nothing/close", "/cache/purge", "/-/reload"]
    for path in paths:
        await post(gateway, path)
    await post(gateway, "/-/drain")
    await _said(gateway, "POST /-/drain: 202")
    told = [line.split("[operator] ")[1] for line in _lines(gateway, "[operator]")]
    assert [line.split(": ")[0] for line in told] == [
        f"POST {path}".replace("/breakers/nothing/close", "what is not there") for path in [*paths, "/-/drain"]
    ]
    assert [int(line.split(": ")[1][:3]) for line in told] == [200, 200, 404, 200, 200, 202]
    assert all("127.0.0.1, without a token" in line for line in told)
    assert await gateway.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_as_json_every_line_of_stderr_is_an_object(
    start_gateway: Any, iam: Any, backend: Backend, workers: int
) -> None:
    gateway = await start_gateway(routes(iam, backend, server=", log: json"), "--workers", str(workers))
    write(gateway, BROKEN)
    await post(gateway, "/-/reload")
    assert await gateway.stop() == 0
    read = [json.loads(line) for line in _lines(gateway)]
    assert {line["level"] for line in read} == {"info", "warning", "error"}
    assert all(set(line) >= {"timestamp", "level", "event", "message"} for line in read)


async def test_a_worker_that_starts_while_the_file_is_broken_serves_the_last_good_one(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    """All workers die at the same time, after a reload, so none is left to ask."""
    gateway = await start_gateway(routes(iam, backend), "--workers", "2")
    write(gateway, routes(iam, backend, more=NEW))
    assert (await post(gateway, "/-/reload")).status_code == 200
    serving = (await status(gateway))["config"]["hash"]
    write(gateway, BROKEN)
    assert (await post(gateway, "/-/reload")).status_code == 422
    children = f"/proc/{pid(gateway)}/task/{pid(gateway)}/children"
    with open(children) as file:  # noqa: ASYNC230 - proc(5)
        before = [int(child) for child in file.read().split()]
    for worker in before:
        os.kill(worker, signal.SIGKILL)

    async def replaced() -> bool:
        with open(children) as file:  # noqa: ASYNC230 - proc(5)
            now = file.read().split()
        return not set(map(int, now)) & set(before) and (await status(gateway)).get("workers") == 2

    await until(replaced, "other workers")
    shown = (await status(gateway))["config"]
    assert shown["hash"] == serving
    assert any("upstrem" in problem for problem in shown["reload_problems"])
    reply = await post(gateway, "/-/reload")
    assert reply.status_code == 422
    write(gateway, routes(iam, backend))
    assert (await post(gateway, "/-/reload")).status_code == 200
    assert (await status(gateway))["config"]["reload_problems"] == []
    assert await gateway.stop() == 0
