"""Commands that ask a running system: `explain --ask` an IAM, `health` an admin listener."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import CONFIGURATION, Ran
from tests.e2e.conftest import GatewayProcess, Seen, Server, free_port, iam, permits, start_gateway, upstream

__all__ = ["iam", "start_gateway", "upstream"]

pytestmark = pytest.mark.hazard

PATIENCE_S = 60
Ask = Callable[..., Awaitable[Ran]]


@pytest.fixture
def ask(folder: Path) -> Ask:
    """Run a command while this process plays the system that it asks."""

    async def ask(*arguments: str, **environ: str) -> Ran:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments),
            cwd=folder,
            env={**os.environ, **environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        return Ran(process.returncode or 0, out.decode(), err.decode())

    return ask


@pytest.mark.parametrize(
    ("subject", "code", "said"),
    [
        ("alice", 0, "GET route:/inventory/*: allow"),
        ("bob", 1, "GET route:/inventory/*: deny"),
        ("mallory", 1, "read system:inventory: deny"),
    ],
)
async def test_explain_ask_says_what_iam_decides(
    ask: Ask, iam: Server, folder: Path, subject: str, code: int, said: str
) -> None:
    may = {"alice": {"system", "route"}, "bob": {"system"}, "mallory": set()}
    iam.answer = permits(lambda asked: asked["resource"]["type"] in may[asked["subject"]["id"]])
    (folder / "routes.yaml").write_text(CONFIGURATION.replace("http://127.0.0.1:1", iam.url))
    ran = await ask("explain", "GET /inventory/7", "--subject", subject, "--ask")
    ran.says(code, out=said)
    shown = json.loads(ran.out[ran.out.index("{\n") : ran.out.rindex("}") + 1])
    assert len(iam.seen) == 1
    assert json.loads(iam.seen[0].body) == shown


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((500, {}, b"{}"), "iam_error"),
        ((200, {}, b'{"evaluations": [{"decision": "true"}, {"decision": true}]}'), "iam_invalid_response"),
        ((401, {}, b"{}"), "iam_auth_error"),
        ((400, {}, b"{}"), "iam_rejected"),
    ],
)
async def test_explain_ask_is_3_when_iam_gives_no_decision(
    ask: Ask, iam: Server, folder: Path, answer: tuple[int, dict[str, str], bytes], code: str
) -> None:
    iam.answer = lambda _: answer
    (folder / "routes.yaml").write_text(CONFIGURATION.replace("http://127.0.0.1:1", iam.url))
    ran = await ask("explain", "GET /inventory/7", "--subject", "alice", "--ask")
    ran.says(3, out=f"read system:inventory: unknown ({code}: ")


async def test_without_ask_iam_hears_nothing(ask: Ask, iam: Server, folder: Path) -> None:
    (folder / "routes.yaml").write_text(CONFIGURATION.replace("http://127.0.0.1:1", iam.url))
    (await ask("explain", "GET /inventory/7", "--subject", "alice")).says(0)
    assert not iam.seen


async def test_explain_says_what_a_running_gateway_keeps(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], ask: Ask, iam: Server, folder: Path, upstream: Server
) -> None:
    text = f"""
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam.url}"}}
identity: {{opaque: {{}}}}
upstreams: {{stock: {{url: "{upstream.url}"}}}}
routes: [{{id: stock, path: /stock/*, upstream: stock, authorize: ["read system:stock"]}}]
"""
    gateway = await start_gateway(text)
    asked = ("explain", "GET /inventory/7", "--subject", "alice", "--admin", gateway.admin)
    (await ask(*asked)).says(0, out="0 decisions of all callers are kept, IAM's circuit is closed")
    iam.answer = permits(lambda _: True)
    headers = {"authorization": "Bearer t"}
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{gateway.url}/stock/7", headers=headers)).status_code == 200
    (await ask(*asked)).says(0, out="1 decision of all callers is kept, IAM's circuit is closed")


async def test_health_shows_all_systems_and_fails_below_what_is_required(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], ask: Ask, iam: Server, upstream: Server
) -> None:
    text = f"""
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam.url}"}}
identity: {{opaque: {{}}}}
upstreams: {{stock: {{url: "{upstream.url}"}}, gone: {{url: "http://127.0.0.1:{free_port()}"}}}}
routes:
  - {{id: stock, path: /stock/*, upstream: stock, authorize: ["read system:stock"]}}
  - {{id: gone, path: /gone/*, upstream: gone, authorize: ["read system:gone"]}}
"""
    gateway = await start_gateway(text)
    ran = await ask("health", "--admin", gateway.admin)
    ran.says(0, out="2 of 3 systems available")
    rows = {line.split("\t")[0]: line.split("\t")[1] for line in ran.out.splitlines()[:4]}
    assert rows == {"system": "state", "iam": "up", "stock": "up", "gone": "DOWN"}
    document = json.loads((await ask("health", "--admin", f"{gateway.admin}/", "--output", "json")).out)
    assert document["summary"]["unavailable_systems"] == 1
    (await ask("health", "--admin", gateway.admin, "--require", "60")).says(0)
    enough = document["summary"]["availability_percentage"]
    (await ask("health", "--admin", gateway.admin, "--require", str(enough))).says(0)
    ran = await ask("health", "--admin", gateway.admin, "--require", "80", "--output", "json")
    ran.says(1, err="80 % are required")
    assert json.loads(ran.out)["summary"] == document["summary"]


@pytest.fixture
async def impostor() -> AsyncIterator[Server]:
    """Something that listens, and is no gateway."""
    server = Server(lambda _: (200, {}, b"{}"))
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"{}"), "is this the admin listener?"),
        ((200, b"[]"), "is this the admin listener?"),
        ((200, b'{"systems": [], "summary": {}}'), "is this the admin listener?"),
        ((200, b"<html>"), "cannot ask"),
        ((200, b"\xff\xfe"), "cannot ask"),
        ((404, b"nothing here"), "it answers 404"),
        ((500, b""), "it answers 500"),
        ((302, b""), "it answers 302"),
        ((401, b"{}"), "GATEWAY_ADMIN_TOKEN"),
    ],
)
async def test_health_of_something_else_is_one_line(
    ask: Ask, impostor: Server, answer: tuple[int, bytes], said: str
) -> None:
    impostor.answer = lambda _: (answer[0], {"Location": "/elsewhere"}, answer[1])
    (await ask("health", "--admin", impostor.url)).refuses(1, said)


async def test_health_brings_the_admin_token(ask: Ask, impostor: Server) -> None:
    def answer(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        summary: dict[str, Any] = dict.fromkeys(("total_systems", "available_systems", "availability_percentage"), 100)
        return (
            (200 if seen.values("authorization") == ["Bearer geheim"] else 401),
            {},
            json.dumps({"systems": {}, "summary": summary}).encode(),
        )

    impostor.answer = answer
    (await ask("health", "--admin", impostor.url, "--token", "geheim")).says(0)
    (await ask("health", "--admin", impostor.url, GATEWAY_ADMIN_TOKEN="geheim")).says(0)
    refused = await ask("health", "--admin", impostor.url, "--token", "wrong")
    refused.refuses(1, "it answers 401")


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:1", "http://", "http://[", "ftp://127.0.0.1"])
async def test_health_of_nobody_is_one_line(ask: Ask, address: str) -> None:
    (await ask("health", "--admin", address)).refuses(1, f"cannot ask {address}")
