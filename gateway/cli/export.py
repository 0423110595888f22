"""`gateway export envoy`: the configuration of an Envoy in front of the gateway, from the same routes.yaml.

JSON, which is YAML too: `envoy -c FILE.yaml` takes it as it is.
"""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.configuration import DEFAULT_FILE, ConfigFile, load_or_exit
from gateway.cli.output import fail, note, say_json


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    export = typer.Typer(help="Write configurations for others.", no_args_is_help=True)
    app.add_typer(export, name="export")

    @export.callback()
    def _export() -> None:
        """Write configurations for others."""

    @export.command()
    def envoy(
        config: ConfigFile = DEFAULT_FILE,
        listen: Annotated[
            str, typer.Option(metavar="HOST:PORT", help="Where Envoy listens for callers.")
        ] = "0.0.0.0:10080",
        admin: Annotated[
            str, typer.Option(metavar="HOST:PORT", help="Where Envoy listens for its operators.")
        ] = "127.0.0.1:9902",
    ) -> None:
        """Print an Envoy configuration that puts HTTP/2, HTTP/3 and gRPC in front of this gateway."""
        from gateway.config.addresses import parse_address  # noqa: PLC0415 - heavy
        from gateway.config.envoy import NotExportable, Places, bootstrap, warnings  # noqa: PLC0415

        configuration = load_or_exit(config, warnings=False)
        try:
            places = Places(parse_address(listen), parse_address(admin))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        try:
            document = bootstrap(configuration, places)
        except (NotExportable, OSError) as error:
            fail(str(error))
        for line in warnings(configuration):
            note(line)
        say_json(document)
