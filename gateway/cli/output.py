"""How commands speak: data on stdout, diagnostics on stderr, colour and tables only on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NoReturn

import typer

EXIT_BAD = 1
EXIT_UNREADABLE = 2
EXIT_CANNOT = 3


class Format(StrEnum):
    """`--output`."""

    TEXT = "text"
    JSON = "json"


def say(text: str) -> None:
    """A line of data."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line of diagnostics."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def say_json(document: Any) -> None:
    """A JSON document as data."""
    say(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def fail(text: str, code: int = EXIT_BAD) -> NoReturn:
    """One clear line, and the exit code."""
    note(text)
    raise typer.Exit(code)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows as a table: laid out on a terminal, tab-separated (header included) for programs.

    Nothing is cut. Where the table does not fit into the terminal, each row is a block of lines.
    """
    if not sys.stdout.isatty():
        for row in (header, *rows):
            say("\t".join(row))
        return
    from rich.console import Console  # heavy, and only for terminals
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown = Table(*header, header_style="bold", box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    natural = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    if sum(natural) + 2 * (len(natural) - 1) <= console.width:
        console.print(shown)
        return
    wide = max(map(len, header[1:]), default=0)
    for first, *others in rows:
        console.print(Text(first, "bold"), soft_wrap=True)
        for name, cell in zip(header[1:], others, strict=True):
            if cell:
                console.print(Text(f"  {name:<{wide}}  {cell}"), soft_wrap=True)
