"""Waiting with a generous end: what a test expects of another process happens soon, not at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_S = 15.0
STILL_S = 0.7


async def until(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - other processes set no events here
            await asyncio.sleep(0.02)


async def standstill(count: Callable[[], int]) -> int:
    """Until a number has stopped growing, which it must: the number."""
    async with asyncio.timeout(PATIENCE_S):
        before = -1
        while before != (now := count()):
            before = now
            await asyncio.sleep(STILL_S)
    return before


async def until_served(attempt: Callable[[], Awaitable[int]], *, meanwhile: int) -> None:
    """Until an attempt gives 200; before that each has to give the status `meanwhile`."""
    async with asyncio.timeout(PATIENCE_S):
        while (status := await attempt()) != 200:
            assert status == meanwhile
            await asyncio.sleep(0.1)
