"""`gateway init`: a first routes.yaml that validates, from two answers or from another proxy's configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gateway.cli.output import DEFAULT_FILE, fail, note, say

if TYPE_CHECKING:
    from gateway.starter import Draft

_UPSTREAM = "http://127.0.0.1:9001"
_IAM = "http://127.0.0.1:8181"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def init(
        foreign: Annotated[
            Path | None,
            typer.Option("--from", metavar="FILE", help="nginx.conf, Caddyfile, Traefik's or OpenAPI's YAML or JSON."),
        ] = None,
        upstream: Annotated[
            str, typer.Option(metavar="URL", help="The service behind the gateway. With OpenAPI, too.")
        ] = "",
        iam: Annotated[
            str, typer.Option(metavar="URL", help="Where IAM is, or `embedded`: policies in files here decide.")
        ] = "",
    ) -> None:
        """Write a first routes.yaml.

        The file has comments and passes `gateway validate`. Never overwrites a file.
        With --iam embedded, writes first access policies too, in ./policies/access.
        """
        if DEFAULT_FILE.exists():
            fail(f"{DEFAULT_FILE} exists already and was not changed")
        draft = (
            _of_service(upstream or _asked("The service behind the gateway", _UPSTREAM)) if foreign is None else None
        )
        draft = draft or _of_file(foreign or DEFAULT_FILE, upstream)
        _write(draft, iam or _asked("The decision point (IAM), or embedded", _IAM))


def _asked(question: str, default: str) -> str:
    """The answer of a person; of a script the default."""
    return str(typer.prompt(question, default=default)) if sys.stdin.isatty() else default


def _of_service(url: str) -> Draft:
    from gateway.starter import Draft  # heavy

    draft = Draft("--upstream")
    name = draft.upstream([url], 1)
    if not name:
        fail(f"{url}: the http:// or https:// URL of an origin is expected, without a path")
    draft.route("/*", name, 1)
    return draft


def _of_file(file: Path, service: str) -> Draft:
    from gateway.starter import NotUnderstoodError, read_foreign  # heavy

    try:
        return read_foreign(file, service)
    except NotUnderstoodError as error:
        fail(str(error))
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}")


def _write(draft: Draft, iam: str) -> None:
    from gateway.config import ConfigurationError, load  # heavy
    from gateway.starter import EMBEDDED, policy_files, starter

    texts = {DEFAULT_FILE: starter(draft, iam)}
    if iam == EMBEDDED:
        texts |= policy_files(draft)
    written: list[Path] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
        load(DEFAULT_FILE, os.environ)
    except FileExistsError:
        _nothing(written, f"{path} exists already and was not changed")
    except OSError as error:
        _nothing(written, f"{path}: {error.strerror or error}")
    except ConfigurationError as error:
        _nothing(written, f"nothing was written:\n{error}")
    for line in draft.left_out:
        note(f"left out: {line}")
    for path in written[1:]:
        say(f"{path}: written")
    say(f"{DEFAULT_FILE}: routes: {len(draft.routes)}, upstreams: {len(draft.upstreams)}. Next: gateway validate")


def _nothing(written: list[Path], why: str) -> NoReturn:
    """Take back what was written."""
    for path in written:
        path.unlink()
    fail(why)
