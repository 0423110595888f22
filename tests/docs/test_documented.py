"""Everything a user can meet is documented: codes here; keys, metrics and commands in the tests of their rooms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from gateway.errors import KINDS, Kind

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(?P<code>\w+)` \| (?P<status>\d+) \| (?P<retry>yes)? ?\| (?P<errors>[^|]+) \|", re.MULTILINE)


def _rows() -> dict[str, re.Match[str]]:
    return {row["code"]: row for row in ROW.finditer((ROOT / "docs" / "errors.md").read_text())}


def test_the_table_of_errors_has_every_code_and_no_other() -> None:
    assert _rows().keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.code)
def test_every_code_is_documented_as_it_is(kind: Kind) -> None:
    row = _rows()[kind.code]
    assert int(row["status"]) == kind.status
    assert bool(row["retry"]) == kind.retry_after
    assert f"`{kind.proxy_error}`" in row["errors"]


def _commands(app: typer.Typer) -> set[str]:
    return {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


def test_every_command_is_in_the_documents() -> None:
    from gateway.cli import app  # loads every command

    text = "".join(file.read_text() for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    names = _commands(app)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        names |= {f"{group.name} {name}" for name in _commands(group.typer_instance)}
    assert {"serve", "policy test", "export envoy"} <= names
    assert {name for name in names if f"gateway {name}" not in text} == set()


def test_links_between_documents_lead_somewhere() -> None:
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name} links to {target}"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    """`mkdocs build --strict` (scripts/site) finds more; this is found without it."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = set(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE))
    pages = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").glob("**/*.md")}
    assert pages - named == set()
