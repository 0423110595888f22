"""Time that says nothing about whoever is asked."""

from __future__ import annotations

import asyncio

from gateway.resilience.deadline import Deadline


class Loop:
    now = 100.0

    def time(self) -> float:
        return self.now


def test_what_is_excused_is_counted_while_it_lasts_and_added_up() -> None:
    loop = Loop()
    deadline = Deadline(200.0, 100.0, loop)  # type: ignore[arg-type] - all it needs of a loop is the time
    loop.now += 1
    assert deadline.excused_s() == 0
    deadline.excuse()
    loop.now += 2
    assert deadline.excused_s() == 2
    deadline.excuse_ends()
    loop.now += 4
    deadline.excuse_ends()
    deadline.excuse()
    loop.now += 8
    deadline.excuse_ends()
    assert deadline.excused_s() == 10


async def test_it_moves_no_deadline() -> None:
    deadline = Deadline.after(5.0)
    at_s = deadline.at_s
    deadline.excuse()
    await asyncio.sleep(0)
    deadline.excuse_ends()
    assert deadline.at_s == at_s
