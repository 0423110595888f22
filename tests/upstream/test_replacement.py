"""A dead connection is replaced by one that was never used, also among many that die at the same time."""

from __future__ import annotations

import asyncio

import pytest

from tests.upstream.conftest import OK

pytestmark = pytest.mark.hazard


async def says_nothing_and_closes(visitor) -> None:
    """Answers as if the connection were kept, and closes it: so do servers at their limit of requests."""
    await visitor.request()
    await visitor.send(OK)


@pytest.mark.parametrize("places", [256, 4])
async def test_a_replacement_is_never_a_kept_connection(serve, reach, places):
    """Eight callers at once: what one gives back is dead when the next takes it, and costs nobody an answer."""
    client = reach(await serve(says_nothing_and_closes), max_connections=places)

    async def ask_often() -> None:
        for _ in range(40):
            assert await client.text() == b"good"

    await asyncio.gather(*(ask_often() for _ in range(8)))
