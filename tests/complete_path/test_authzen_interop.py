"""The AuthZEN working group's interoperability list for API gateways, replayed through a running gateway.

The list (authzen_gateway_decisions.json, public data of the group) names subject, method and route template; here the
templates are routes, requests have real paths, and who asks is known by a token. Two decision points answer: one that
knows nothing but the list, and `gateway iam` with policies that say the same (tests/pdp/interop).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S
from tests.e2e.conftest import GatewayProcess, Server, free_port, permits

pytestmark = pytest.mark.hazard

HERE = Path(__file__).parent
LIST = json.loads((HERE / "authzen_gateway_decisions.json").read_text())["evaluation"]
POLICIES = HERE.parent / "pdp" / "interop"
REAL = {"/users/{userId}": "/users/rick@the-citadel.com", "/todos": "/todos", "/todos/{todoId}": "/todos/7240d0db"}
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}"}}
iam: {{url: "{iam}"}}
identity: {identity}
upstreams: {{todos: {{url: "{upstream}"}}}}
routes:
  - {{id: user, path: "/users/{{userId}}", upstream: todos, authorize: ["{{method}} route:{{route.path}}"]}}
  - {{id: todos, path: /todos, upstream: todos, authorize: ["{{method}} route:{{route.path}}"]}}
  - {{id: todo, path: "/todos/{{todoId}}", upstream: todos, authorize: ["{{method}} route:{{route.path}}"]}}
"""


def _pair(request: dict[str, Any]) -> tuple[str, str, str]:
    return request["subject"]["id"], request["action"]["name"], request["resource"]["id"]


EXPECTED = {_pair(entry["request"]): entry["expected"] for entry in LIST}


@asynccontextmanager
async def _from_the_list() -> AsyncIterator[str]:
    """A decision point that answers what the list says, and takes no other question."""
    asked: list[dict[str, Any]] = []

    def decide(evaluation: dict[str, Any]) -> bool:
        asked.append(evaluation)
        return bool(EXPECTED[_pair(evaluation)])

    server = Server(permits(decide))
    await server.start()
    yield server.url
    await server.stop()
    listed = [entry["request"] for entry in LIST]
    assert all(evaluation in listed for evaluation in asked)
    assert all(request in asked for request in listed)


@asynccontextmanager
async def _gateway_iam() -> AsyncIterator[str]:
    """`gateway iam` on the policies of the same scenario."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "iam"),
        *("--policies", str(POLICIES), "--listen", f"127.0.0.1:{port}"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b"serving" not in (line := await process.stderr.readline()):
                assert line, "gateway iam ended at once"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("decision_point", [_from_the_list, _gateway_iam], ids=["from-the-list", "gateway-iam"])
async def test_every_pair_is_allowed_or_refused_as_listed(
    start_gateway: Callable[..., Awaitable[GatewayProcess]],
    upstream: Server,
    issuer: Issuer,
    tmp_path: Path,
    decision_point: Callable[[], Any],
) -> None:
    assert len(EXPECTED) == len(LIST)
    async with decision_point() as iam:
        text = ROUTES.format(iam=iam, upstream=upstream.url, identity=issuer.settings(tmp_path))
        gateway = await start_gateway(text)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S, trust_env=False) as client:

            async def allowed(subject: str, method: str, template: str) -> bool:
                reply = await client.request(method, REAL[template], headers=issuer.bearer(subject))
                assert reply.status_code in {200, 403}, reply.text
                return reply.status_code == 200

            one_by_one = [await allowed(*pair) for pair in EXPECTED]
            together = await asyncio.gather(*(allowed(*pair) for pair in EXPECTED))
        await gateway.stop()
    assert dict(zip(EXPECTED, one_by_one, strict=True)) == EXPECTED
    assert dict(zip(EXPECTED, together, strict=True)) == EXPECTED
    forwarded = [(seen.method, seen.target) for seen in upstream.seen]
    assert len(forwarded) == 2 * sum(EXPECTED.values())
