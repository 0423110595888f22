"""Keys from a URL, in the running gateway: rotated under load, an issuer that goes away, one that never was there."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S, until, until_served
from tests.e2e.conftest import GatewayProcess, Server, permits

pytestmark = pytest.mark.hazard

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}", access_log: "off"}}
iam: {{url: "{iam}"}}
identity: {identity}
upstreams: {{inventory: {{url: "{upstream}"}}}}
routes:
  - {{id: inventory, path: /inventory/*, upstream: inventory, authorize: ["read system:inventory"]}}
  - {{id: open, path: /open/*, upstream: inventory, authorize: public}}
"""
WORKERS = 40
ROTATIONS = 3

Start = Callable[..., Awaitable[GatewayProcess]]


@pytest.fixture
async def keys(issuer: Issuer) -> AsyncIterator[Server]:
    """The server of the issuer's key set."""
    server = Server(issuer.answer)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def configuration(iam: Server, upstream: Server, keys: Server) -> str:
    iam.answer = permits(lambda evaluation: evaluation["subject"]["id"] == "alice")
    identity = Issuer.jwt(f'jwks_url: "{keys.url}/jwks"', "jwks_refresh: 1s")
    return ROUTES.format(iam=iam.url, upstream=upstream.url, identity=identity)


def _client(gateway: GatewayProcess) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=WORKERS)
    return httpx.AsyncClient(base_url=gateway.url, limits=limits, timeout=PATIENCE_S, trust_env=False)


async def test_keys_are_rotated_under_load_without_one_failed_request(
    start_gateway: Start, configuration: str, issuer: Issuer, keys: Server
) -> None:
    """Tokens of the newest key and of the one before are used all the time, from the moment they are published."""
    gateway = await start_gateway(configuration)
    statuses: Counter[int] = Counter()
    tokens = [issuer.bearer("alice")]
    over = asyncio.Event()

    async def work(client: httpx.AsyncClient, number: int) -> None:
        while not over.is_set():
            reply = await client.get("/inventory/7", headers=tokens[-1 - number % min(2, len(tokens))])
            statuses[reply.status_code] += 1

    async with _client(gateway) as client, asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(work(client, number))
        for rotation in range(ROTATIONS):
            before = statuses.total()
            issuer.rotate()
            tokens.append(issuer.bearer("alice"))
            await until(lambda before=before: statuses.total() >= before + 3 * WORKERS)  # type: ignore[misc]
            assert statuses.keys() == {200}, (rotation, statuses)
        over.set()
    assert statuses.keys() == {200}
    assert statuses.total() >= ROTATIONS * 3 * WORKERS
    assert all(seen.method == "GET" and seen.target == "/jwks" for seen in keys.seen)


async def test_old_keys_are_kept_while_the_issuer_is_down(
    start_gateway: Start, configuration: str, issuer: Issuer, keys: Server
) -> None:
    """Also past `jwks_refresh`; forged key names make no storm of fetches, and the issuer's return needs no restart."""
    gateway = await start_gateway(configuration)
    async with _client(gateway) as client:
        known = issuer.bearer("alice")
        assert (await client.get("/inventory/7", headers=known)).status_code == 200
        await keys.stop()
        await asyncio.sleep(1.5)
        stranger = Issuer().bearer("alice")
        begun = time.monotonic()
        replies = await asyncio.gather(
            *(client.get("/inventory/7", headers=known if number % 2 else stranger) for number in range(100))
        )
        assert Counter(reply.status_code for reply in replies) == {200: 50, 401: 50}
        assert time.monotonic() - begun < PATIENCE_S
        issuer.rotate()
        fresh = issuer.bearer("alice")
        assert (await client.get("/inventory/7", headers=fresh)).status_code == 401
        await keys.start()
        await until_served(lambda: _status(client, fresh), meanwhile=401)
        assert (await client.get("/inventory/7", headers=known)).status_code == 200


async def test_without_any_keys_nobody_is_refused_for_it(
    start_gateway: Start, configuration: str, issuer: Issuer, keys: Server, iam: Server, upstream: Server
) -> None:
    """503 says that nobody could be known, 401 would say that the token is bad; what needs no identity is served."""
    await keys.stop()
    gateway = await start_gateway(configuration)
    async with _client(gateway) as client:
        for _ in range(3):
            begun = time.monotonic()
            reply = await client.get("/inventory/7", headers=issuer.bearer("alice"))
            assert (reply.status_code, reply.json()["code"]) == (503, "identity_unavailable")
            assert int(reply.headers["retry-after"]) == reply.json()["retry_after"] >= 1
            assert time.monotonic() - begun < PATIENCE_S / 2
        assert (await client.get("/inventory/7")).status_code == 401
        assert (await client.get("/inventory/7", headers={"authorization": "Bearer garbage"})).status_code == 401
        assert not iam.seen
        assert not upstream.seen
        assert (await client.get("/open/x")).status_code == 200
        assert (await client.get(f"{gateway.admin}/readyz")).status_code == 200
        await keys.start()
        await until_served(lambda: _status(client, issuer.bearer("alice")), meanwhile=503)


async def test_a_key_set_that_is_none_is_as_good_as_no_answer(
    start_gateway: Start, configuration: str, issuer: Issuer, keys: Server
) -> None:
    """An error page, a redirect or an empty set takes no key away."""
    gateway = await start_gateway(configuration)
    answers: list[tuple[int, dict[str, str], bytes]] = [
        (200, {}, b"<html>maintenance</html>"),
        (302, {"Location": "http://127.0.0.1:1/jwks"}, b""),
        (200, {}, b'{"keys": []}'),
        (500, {}, issuer.key_set),
    ]
    async with _client(gateway) as client:
        assert await _status(client, issuer.bearer("alice")) == 200
        for answer in answers:
            keys.answer = lambda _, answer=answer: answer  # type: ignore[misc]  # a default binds it now
            asked = len(keys.seen)
            await asyncio.sleep(1.2)
            assert await _status(client, issuer.bearer("alice")) == 200
            assert len(keys.seen) >= asked


async def _status(client: httpx.AsyncClient, headers: dict[str, Any]) -> int:
    return (await client.get("/inventory/7", headers=headers)).status_code
