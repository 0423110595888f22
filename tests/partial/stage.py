"""A gateway process in front of systems, IAM and an identity provider that do what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from gateway.resilience.evidence import RECENT_S
from tests.complete_path.issuer import Issuer
from tests.e2e.conftest import GatewayProcess, free_port
from tests.faults.actors import Actor, acting, as_json, decides, evaluations

PATIENCE_S = 30.0
OPERATOR = {"x-gateway-admin": "1"}
TOP = """
version: 1
server: {{listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}", access_log: json}}
iam: {{url: "{iam}", timeout: {{connect: 500ms, read: 1s, total: 1s}}, retry: {{attempts: 1}},
       circuit_breaker: {{failure_threshold: 3, open_for: 1s}}, batch: {{max_size: 50}}, cache: {{ttl: 0s}}{more}}}
identity: {identity}
upstreams:
{upstreams}
"""


def asked_of(iam: Actor) -> list[list[str]]:
    """What every call to IAM asked: `subject action type:id`."""
    return [[in_words(evaluation) for evaluation in evaluations(seen)] for seen in iam.seen]


def in_words(evaluation: dict[str, Any]) -> str:
    resource = evaluation["resource"]
    return f"{evaluation['subject']['id']} {evaluation['action']['name']} {resource['type']}:{resource['id']}"


@dataclass
class Stage:
    """Everything of one test module. `denied` are questions, in words, that IAM answers with no."""

    iam: Actor
    systems: dict[str, Actor]
    gateway: GatewayProcess
    issuer: Issuer
    client: httpx.AsyncClient
    admin: httpx.AsyncClient
    denied: set[str]
    tokens: dict[str, dict[str, str]] = field(default_factory=dict)

    def who(self, name: str = "alice") -> dict[str, str]:
        """The credentials of one person: the same token each time, since copies are kept by what was sent."""
        return self.tokens.setdefault(name, self.issuer.bearer(name))

    async def get(self, path: str, name: str = "alice", **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={**self.who(name), **headers})

    async def post(self, path: str, body: Any, name: str = "alice", **headers: str) -> httpx.Response:
        return await self.client.post(path, json=body, headers={**self.who(name), **headers})

    async def circuits(self) -> dict[str, str]:
        """The state of every breaker by name."""
        breakers = (await self.admin.get("/breakers")).json()["breakers"]
        return {name: breaker["state"] for name, breaker in breakers.items()}

    async def log_line(self, answer: httpx.Response) -> dict[str, Any]:
        """The access log's line of this answer."""
        wanted = answer.headers["x-request-id"].encode()
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [json.loads(line) for line in self.gateway.output.split(b"\n")[:-1] if wanted in line]
            return bool(found)

        await eventually(there)
        return found[0]

    async def quiet(self) -> None:
        """Who answered somebody within the last second is not down, whatever fails: let that second pass."""
        await asyncio.sleep(RECENT_S + 0.05)

    async def reset(self) -> None:
        """Everybody listens and behaves, every circuit is closed, nothing is remembered of what was asked."""
        for actor in (self.iam, *self.systems.values()):
            actor.fault = None
            actor.behave = decides(lambda asked: in_words(asked) not in self.denied) if actor is self.iam else found
            if actor._server is None:
                await actor.start()
            actor.seen.clear()
        self.denied.clear()
        for name in await self.circuits():
            for what in ("open", "close", "auto"):  # a change of state forgets what was counted
                assert (await self.admin.post(f"/breakers/{name}/{what}", headers=OPERATOR)).status_code == 200
        assert (await self.admin.post("/cache/purge", headers=OPERATOR)).status_code == 200


def found(_: Any) -> bytes:
    """A system's behaviour: something is there."""
    return as_json({"name": "something"})


def says(document: Any, status: str = "200 OK", *headers: str) -> Callable[[Any], bytes]:
    """A system's behaviour: this document."""
    return lambda _: as_json(document, status, *headers)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)


@asynccontextmanager
async def stage(
    folder: Path, routes: str, names: Sequence[str], *, upstream_keys: str = "", iam_keys: str = ""
) -> AsyncIterator[Stage]:
    """A gateway on `routes` with an upstream for each name. `upstream_keys`: lines for `upstreams`, with their auth."""
    issuer = Issuer()
    iam = Actor(decides(lambda _: True))
    systems = {name: Actor(found) for name in names}
    async with acting(iam, *systems.values()):
        ports = {name: str(system.port) for name, system in systems.items()}
        plain = "".join(
            f"  {name}: {{url: '{systems[name].url}'}}\n" for name in names if f"  {name}:" not in upstream_keys
        )
        port, admin = free_port(), free_port()
        top = TOP.format(
            port=port,
            admin=admin,
            iam=iam.url,
            more=iam_keys,
            identity=issuer.settings(folder),
            upstreams=plain + filled(upstream_keys, ports),
        )
        file = folder / "routes.yaml"
        file.write_text(f"{top}\nroutes:\n{routes}")
        gateway = GatewayProcess(file, port, admin)
        await gateway.start()
        async with (
            httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=PATIENCE_S) as client,
            httpx.AsyncClient(base_url=gateway.admin, trust_env=False, timeout=PATIENCE_S) as operator,
        ):
            yield Stage(iam, systems, gateway, issuer, client, operator, set())
    assert await gateway.stop() == 0


def filled(text: str, ports: dict[str, str]) -> str:
    """`NAME_PORT` in the text becomes the port of that system."""
    for name, port in ports.items():
        text = text.replace(f"{name}_PORT", port)
    return text
