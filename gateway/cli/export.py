"""`gateway export`: configurations of other proxies, from the same routes.yaml (docs/decisions.md).

Envoy's is JSON, which is YAML too: `envoy -c FILE.yaml` takes it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import DEFAULT_FILE, ConfigFile, fail, load_or_exit, note, say_json

if TYPE_CHECKING:
    from gateway.config.proxies import Plan
    from gateway.model.settings import Address

Listen = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the proxy listens for callers.")]
Backend = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where routes without upstream are forwarded to.")]
Decide = Annotated[bool, typer.Option("--decide", help="Ask the decision listener; Envoy forwards by itself.")]
EVERYWHERE = "0.0.0.0:10080"


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    export = typer.Typer(help="Write configurations for other proxies.", no_args_is_help=True)
    app.add_typer(export, name="export")

    @export.callback()
    def _export() -> None:
        """Write configurations for other proxies."""

    export.command()(envoy)
    export.command()(nginx)
    export.command()(traefik)
    export.command()(caddy)


def envoy(
    config: ConfigFile = DEFAULT_FILE,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where Envoy listens for callers.")] = EVERYWHERE,
    admin: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Envoy listens for its operators.")
    ] = "127.0.0.1:9902",
    decide: Decide = False,  # an option
    backend: Backend = "",
) -> None:
    """Print an Envoy configuration.

    By default Envoy is in front of this gateway, for HTTP/2, HTTP/3 and gRPC. With --decide it forwards by itself.
    """
    from gateway.config.proxies.envoy import Places, bootstrap, warnings  # heavy
    from gateway.config.proxies.envoy_decide import deciding  # heavy
    from gateway.config.proxies.plan import NotExportable  # heavy

    places = Places(_address(listen), _address(admin))
    if decide:
        say_json(deciding(_planned(config, listen, backend), places))
        return
    configuration = load_or_exit(config, warnings=False)
    try:
        document = bootstrap(configuration, places)
    except (NotExportable, OSError) as error:
        fail(str(error))
    for line in warnings(configuration):
        note(line)
    say_json(document)


def nginx(config: ConfigFile = DEFAULT_FILE, listen: Listen = EVERYWHERE, backend: Backend = "") -> None:
    """Print an nginx configuration.

    It asks the decision listener by `auth_request`.
    """
    from gateway.config.proxies import nginx_conf  # heavy

    _print(nginx_conf, config, listen, backend)


def traefik(config: ConfigFile = DEFAULT_FILE, listen: Listen = EVERYWHERE, backend: Backend = "") -> None:
    """Print a Traefik configuration.

    It is the dynamic one (file provider), and asks the decision listener by `forwardAuth`.
    """
    from gateway.config.proxies import traefik_dynamic  # heavy

    _print(traefik_dynamic, config, listen, backend)


def caddy(config: ConfigFile = DEFAULT_FILE, listen: Listen = EVERYWHERE, backend: Backend = "") -> None:
    """Print a Caddyfile.

    It asks the decision listener by `forward_auth`.
    """
    from gateway.config.proxies import caddyfile  # heavy

    _print(caddyfile, config, listen, backend)


def _print(written: Callable[[Plan], str], config: Path, listen: str, backend: str) -> None:
    typer.echo(written(_planned(config, listen, backend)), nl=False)


def _planned(config: Path, listen: str, backend: str) -> Plan:
    from gateway.config.proxies import Front, NotExportable, plan, warnings  # heavy

    front = Front(_address(listen), _address(backend) if backend else None)
    configuration = load_or_exit(config, warnings=False)
    try:
        planned = plan(configuration, front)
    except NotExportable as error:
        fail(str(error))
    for line in warnings(planned):
        note(line)
    return planned


def _address(text: str) -> Address:
    from gateway.config.values import parse_address  # heavy

    try:
        return parse_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
