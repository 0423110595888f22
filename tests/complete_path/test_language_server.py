"""`gateway schema` in an editor: what the YAML language server makes of it for right and wrong files."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.complete_path.foreign import ROOT, of_npm, on_path
from tests.complete_path.language_server import Editor, editor

pytestmark = pytest.mark.integration

WRONG = """\
# yaml-language-server: $schema=./routes.schema.json
version: 1
iam: {url: "http://127.0.0.1:8181", retries: 3}
identity: {opaque: {}}
upstreams: {inventory: {url: "http://127.0.0.1:9001"}}
routes:
  - id: inventory
    path: /inventory/*
    upstream: inventory
    authorise: ["read system:inventory"]
    deadline: soon
"""
UNFINISHED = """\
# yaml-language-server: $schema=./routes.schema.json
version: 1
iam: {url: "http://127.0.0.1:8181"}
identity: {opaque: {}}
upstreams: {inventory: {url: "http://127.0.0.1:9001"}}
routes:
  - id: inventory
    path: /inventory/*
    authorize: public
    \n"""


@pytest.fixture
async def an_editor(tmp_path: Path) -> AsyncIterator[Editor]:
    """An editor in a folder with the schema that `gateway schema` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "schema", stdout=asyncio.subprocess.PIPE
    )
    schema, _ = await process.communicate()
    assert process.returncode == 0
    (tmp_path / "routes.schema.json").write_bytes(schema)
    server = of_npm("yaml-language-server", "bin", "yaml-language-server")
    async with editor(on_path("node"), server, "--stdio", folder=tmp_path) as one:
        yield one


async def test_the_shipped_file_has_no_diagnostics(an_editor: Editor, tmp_path: Path) -> None:
    assert await an_editor.diagnostics(tmp_path / "routes.yaml", (ROOT / "routes.yaml").read_text()) == []


async def test_mistakes_are_diagnosed_at_their_places(an_editor: Editor, tmp_path: Path) -> None:
    diagnostics = await an_editor.diagnostics(tmp_path / "routes.yaml", WRONG)
    found = {one["range"]["start"]["line"] + 1: one["message"] for one in diagnostics}
    assert set(found) >= {3, 10, 11}
    assert "retries" in found[3]
    assert "authorise" in found[10]


async def test_keys_of_a_route_are_offered_and_explained(an_editor: Editor, tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    await an_editor.diagnostics(file, UNFINISHED)
    offered = await an_editor.completions(file, UNFINISHED.count("\n") - 1, 4)
    assert {"upstream", "aggregate", "on_iam_failure", "circuit_breaker", "recheck", "strip_prefix"} <= set(offered)
    assert "path" not in offered
    assert "Literal segments" in await an_editor.hover(file, 7, 5)
