"""Policy folders on disk, and an AuthZEN client that talks to the app without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.pdp.authzen import authzen_app
from gateway.pdp.point import EmbeddedDecisionPoint

HERE = Path(__file__).parent
MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """Writes a policy folder: `folder("permit(…);", entities=[…])`, or files by name."""

    def make(policies: str = "", entities: Any = None, **files: str) -> Path:
        if policies:
            (tmp_path / "p.cedar").write_text(policies)
        if entities is not None:
            text = entities if isinstance(entities, str) else json.dumps(entities)
            (tmp_path / "entities.json").write_text(text)
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text)
        return tmp_path

    return make


@pytest.fixture
def point(folder: MakeFolder) -> Callable[..., EmbeddedDecisionPoint]:
    """Loads policies from text."""

    def make(policies: str, entities: Any = None) -> EmbeddedDecisionPoint:
        return EmbeddedDecisionPoint.load(folder(policies, entities))

    return make


@pytest.fixture
async def certified() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the AuthZEN app with the certification fixture loaded."""
    loaded = EmbeddedDecisionPoint.load(HERE / "certification")
    transport = httpx.ASGITransport(authzen_app(lambda: loaded))
    async with httpx.AsyncClient(transport=transport, base_url="http://pdp.example:8181") as client:
        yield client
