"""Partial answers through real processes: the demo, and gateways in front of systems that can be told to fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.partial.demo import Demo, copy_shipped


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    """The demo, whole."""
    folder: Path = tmp_path_factory.mktemp("demo")
    demo = Demo(copy_shipped(folder))
    await demo.start()
    yield demo
    assert await demo.stop() == 0
