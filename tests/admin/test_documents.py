"""Large documents are made piece by piece and are the same JSON."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from gateway.admin.feed import encoded, shown
from gateway.app.pauses import SLICE, at_once, each, in_slices, one_by_one


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        None,
        "ü",
        1.5,
        {"a": []},
        {"a": {"b": {"c": [1, {"d": None}]}}, "e": [[], [1, 2], {"f": "\u2028"}]},
        [[1]],
    ],
)
async def test_it_is_the_same_json(document: Any) -> None:
    assert json.loads(await encoded(document)) == document


async def test_an_answer_says_what_it_is() -> None:
    answer = await shown({"a": 1}, {"cache-control": "no-store"})
    assert (answer.body, answer.headers["content-type"]) == (b'{"a":1}', "application/json")
    assert answer.headers["cache-control"] == "no-store"


async def test_others_have_their_turn_while_a_large_one_is_made() -> None:
    """Five megabytes: the longest that anybody waits is a small part of the whole."""
    document = {"routes": [{"id": f"route {number}", "more": list(range(20))} for number in range(20_000)]}
    begun_s = time.perf_counter()
    making = asyncio.create_task(encoded(document))
    waits = []
    while not making.done():
        before_s = time.perf_counter()
        await asyncio.sleep(0)
        waits.append(time.perf_counter() - before_s)
    assert len(waits) > 5
    assert max(waits) < (time.perf_counter() - begun_s) / 2


async def test_work_on_the_loop_is_done_in_slices() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert await in_slices(range(SLICE * 4), lambda number: number * 2) == list(range(0, SLICE * 8, 2))
    task.cancel()
    assert turns >= 4


async def test_steps_give_the_same_at_once_and_one_by_one() -> None:
    def steps() -> Any:
        one = yield lambda: 1
        rest = yield from each(range(SLICE + 1), str)
        return one, len(rest)

    assert at_once(steps()) == await one_by_one(steps()) == (1, SLICE + 1)


async def test_what_a_step_raises_ends_it() -> None:
    def steps() -> Any:
        yield lambda: 1 / 0

    with pytest.raises(ZeroDivisionError):
        await one_by_one(steps())
    with pytest.raises(ZeroDivisionError):
        at_once(steps())
