"""The gateway's own credentials towards systems, through the running gateway and a real token server."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.actors import Actor, Caller, Fault, Seen, as_json, plays, reply
from tests.partial.stage import Stage, eventually, stage

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

BASIC = "Basic " + base64.b64encode(b"audit:pass-secret").decode()
OAUTH = ("storm", "refused", "broken")
UPSTREAMS = """
  fixed: {url: "http://127.0.0.1:fixed_PORT", auth: {bearer: "fixed-secret"}}
  basic: {url: "http://127.0.0.1:basic_PORT", auth: {basic: {username: audit, password: "pass-secret"}}}
""" + "".join(
    f"""
  {name}:
    url: "http://127.0.0.1:{name}_PORT"
    auth:
      oauth2_client_credentials:
        token_url: "http://127.0.0.1:tokens_PORT/{name}"
        client_id: audit
        client_secret: "client-secret"
        scope: read
"""
    for name in OAUTH
)
ROUTES = """
  - id: audit
    path: /audit/{name}
    authorize: authenticated
    deadline: 1s
    circuit_breaker: {open_for: 500ms}
    aggregate:
      systems:
        Fixed: {upstream: fixed, path: "/f/{path.name}"}
        Basic: {upstream: basic, path: "/b/{path.name}"}
        Broken: {upstream: broken, path: "/o/{path.name}"}
""" + "".join(
    f"""
  - id: {name}
    path: /{name}/*
    upstream: {name}
    authorize: authenticated
    deadline: 2s
"""
    for name in ("basic", "storm", "refused")
)


class TokenServer:
    """Issues token-1, token-2, … for one system, which accepts all but the `refused` ones."""

    def __init__(self) -> None:
        self.issued = 0
        self.lifetime_s = 3600
        self.slow_s = 0.0
        self.refused: set[str] = set()

    async def issue(self) -> bytes:
        self.issued += 1
        token = f"token-{self.issued}"
        await asyncio.sleep(self.slow_s)
        return as_json({"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime_s})

    def guard(self, seen: Seen) -> bytes:
        token = (seen.value("authorization") or "").removeprefix("Bearer ")
        return as_json({"token": token}, "401 Unauthorized" if token in self.refused else "200 OK")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: Any) -> AsyncIterator[Stage]:
    names = ["fixed", "basic", *OAUTH, "tokens"]
    async with stage(tmp_path_factory.mktemp("credentials"), ROUTES, names, upstream_keys=UPSTREAMS) as world:
        yield world


@pytest.fixture(scope="module")
def servers(world: Stage) -> dict[str, TokenServer]:
    """A token server for each system; each system is one test's."""
    servers = {f"/{name}": TokenServer() for name in OAUTH}
    world.systems["tokens"].behave = lambda seen: servers[seen.target].issue()
    for name in OAUTH:
        world.systems[name].behave = servers[f"/{name}"].guard
    return servers


def sent(actor: Actor) -> Counter[str | None]:
    return Counter(seen.value("authorization") for seen in actor.seen)


async def many(world: Stage, target: str, count: int) -> Counter[tuple[int, bytes]]:
    """What so many callers get who ask at once, each on a connection of its own."""
    callers = await asyncio.gather(*(Caller.to(world.gateway.port) for _ in range(count)))
    answers = await asyncio.gather(*(caller.ask(target, headers=world.who()) for caller in callers))
    for caller in callers:
        caller.close()
    return Counter((answer.status, answer.body) for answer in answers)


async def test_one_token_for_two_hundred_at_once_renewed_before_it_expires(world: Stage, servers: Any) -> None:
    server = servers["/storm"]
    server.slow_s, server.lifetime_s = 0.3, 5
    assert await many(world, "/storm/x", 200) == {(200, b'{"token": "token-1"}'): 200}
    fetched_s = time.monotonic()
    assert server.issued == 1
    (asked,) = (seen for seen in world.systems["tokens"].seen if seen.target == "/storm")
    assert base64.b64decode((asked.value("authorization") or "").removeprefix("Basic ")) == b"audit:client-secret"
    assert asked.body == b"grant_type=client_credentials&scope=read"
    server.slow_s, token = 0.8, "token-1"
    while token == "token-1":
        answer = await world.get("/storm/x")
        assert answer.elapsed.total_seconds() < server.slow_s  # nobody waits for the new one while the old one is good
        token = answer.json()["token"]
        await asyncio.sleep(0.05)
    assert (token, server.issued) == ("token-2", 2)
    assert time.monotonic() - fetched_s < server.lifetime_s + 0.5


async def test_a_401_renews_once_however_many_it_meets(world: Stage, servers: Any) -> None:
    server = servers["/refused"]
    assert (await world.get("/refused/first")).json() == {"token": "token-1"}
    server.refused = {"token-1"}
    assert await many(world, "/refused/x", 50) == {(200, b'{"token": "token-2"}'): 50}
    assert server.issued == 2
    server.refused |= {f"token-{number}" for number in range(9)}
    answer = await world.get("/refused/x")
    assert (answer.status_code, answer.json()) == (401, {"token": "token-2"})
    assert server.issued == 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault(lambda _: (), "hang"), "deadline_exceeded"), (plays(reply(b"<html>")), "upstream_protocol_error")],
    ids=["hang", "html"],
)
async def test_a_token_server_that_fails_is_that_systems_failure_alone(
    world: Stage, servers: Any, fault: Fault, code: str
) -> None:
    """And the next one finds it as it should be: the token of before is refused, so a new one is needed."""
    tokens, server = world.systems["tokens"], servers["/broken"]
    server.refused = {f"token-{server.issued}"}
    tokens.fault = fault
    tokens.seen.clear()
    document = (await world.get("/audit/x")).json()
    assert document["systems_available"] == ["Fixed", "Basic"]
    assert document["failures"]["Broken"] in ({"code": code}, {"code": "upstream_error", "status": 401})
    await asyncio.gather(*(world.get("/audit/x") for _ in range(20)))
    assert len(tokens.seen) <= 3  # it is not asked by every request
    tokens.fault = None
    await tokens.stop()
    await tokens.start()
    end = time.monotonic() + 20
    while not (await world.get("/audit/x")).json()["complete"]:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    await eventually(lambda: b"[auth] No token from http://127.0.0.1:" in world.gateway.errors)


async def test_every_system_gets_its_own_credentials_and_never_the_callers(world: Stage, servers: Any) -> None:
    answer = await world.get("/audit/x", cookie="session=caller")
    assert answer.json()["complete"]
    await world.get("/basic/x", cookie="session=caller")
    assert set(sent(world.systems["fixed"])) == {"Bearer fixed-secret"}
    assert set(sent(world.systems["basic"])) == {BASIC}
    for name in ("fixed", "basic", *OAUTH):
        for seen in world.systems[name].seen:
            assert len([1 for header, _ in seen.headers if header == "authorization"]) == 1
            assert seen.value("cookie") is None
    shown = (await world.admin.get("/config")).text + (await world.admin.get("/status")).text
    told = world.gateway.output.decode() + world.gateway.errors.decode() + shown + answer.text
    for secret in ("fixed-secret", "pass-secret", "client-secret", "token-1", world.issuer.token("alice")[:20]):
        assert secret not in told
