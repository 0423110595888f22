"""`docs/commands.md`: every command as its own `--help` says it.

Run as `python -m gateway.cli.reference docs/commands.md`; a test holds the file to what this says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer.main

from gateway.cli import app

_WIDTH: Final = 110
_HEAD: Final = """# Commands

`gateway COMMAND --help` says the same. Results go to stdout, everything else to stderr. Exit codes: 0 for success, 2
for a mistake in the command itself; what else a command returns is said below.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_sections(typer.main.get_command(app), "gateway")])


def _sections(command: Any, name: str) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True, max_content_width=_WIDTH, terminal_width=_WIDTH)
    members = getattr(command, "commands", {})
    if not members:
        yield f"## {name}\n\n```text\n{command.get_help(context).strip()}\n```\n"
    for word in sorted(members):
        yield from _sections(members[word], f"{name} {word}")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
