"""What rings in the same tick does so each by itself."""

from __future__ import annotations

import asyncio

from gateway.resilience.deadline import Ticks


class Bell:
    def __init__(self, rung: list[str], name: str, error: BaseException | None = None) -> None:
        self._rung, self._name, self._error = rung, name, error

    def ring(self) -> None:
        self._rung.append(self._name)
        if self._error is not None:
            raise self._error


async def test_an_error_in_one_takes_nothing_from_the_others() -> None:
    loop, rung, reported = asyncio.get_running_loop(), [], []
    loop.set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
    ticks, at_s = Ticks(loop), loop.time() + 0.01
    bad = [ValueError("first"), KeyError("second")]
    bells = [Bell(rung, "a"), Bell(rung, "b", bad[0]), Bell(rung, "c"), Bell(rung, "d", bad[1]), Bell(rung, "e")]
    taken_back = Bell(rung, "never")
    tick = [ticks.set(at_s, bell) for bell in (*bells, taken_back)][-1]
    tick.pop(taken_back)
    over = asyncio.Event()
    loop.call_later(0.1, over.set)
    await over.wait()
    assert rung == ["a", "b", "c", "d", "e"]
    assert reported == bad
