"""An event loop whose clock jumps to the next timer, and in which everything that reads a clock reads this one.

Work for threads is done at once. Connections are made to actors (`wires`), never to sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FunctionType, SimpleNamespace
from typing import Any

import gateway.upstream.wire as wire_of_upstreams
from tests.simulation import wires

BEGIN_S = 1_000.0
TURNS = 400_000  # so many turns of one run are no progress any more


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Where others wait, this one jumps. `actors`: who answers at a port. `wall_s` is what the wall clock is ahead."""

    def __init__(self) -> None:
        self.now = BEGIN_S
        self.wall_s = 1_700_000_000.0
        self.turns = 0
        self.actors: dict[int, wires.Actor] = {}
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.wall_s + self.now

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return await wires.connect(self.actors[port], factory, port)

    def run_in_executor(self, _: Any, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        done = self.create_future()
        try:
            done.set_result(work(*args))
        except Exception as error:  # noqa: BLE001 - as an executor does
            done.set_exception(error)
        return done


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        loop = self.loop
        loop.turns += 1
        assert loop.turns < TURNS, "the run does not come to an end"
        assert timeout is not None, "everybody waits for nothing"
        if timeout > 0:
            loop.now += timeout
        return []


@contextlib.contextmanager
def clocks_of(loop: SimulatedLoop, seed: int) -> Iterator[None]:
    """Everything in `gateway` that reads a clock reads the loop's; what is drawn is drawn from the seed."""
    clocks = {time.monotonic: loop.time, time.time: loop.wall, time.perf_counter: loop.time}
    before = [(function, function.__defaults__, function.__kwdefaults__) for function in _with_clocks()]
    for function, plain, named in before:
        function.__defaults__ = plain and tuple(_other(value, clocks) for value in plain)
        function.__kwdefaults__ = named and {key: _other(value, clocks) for key, value in named.items()}
    state, poll = random.getstate(), wire_of_upstreams.select
    originals = (time.monotonic, time.time, time.perf_counter)
    time.monotonic, time.time, time.perf_counter = loop.time, loop.wall, loop.time
    wire_of_upstreams.select = SimpleNamespace(poll=wires.Poll, POLLIN=1)  # type: ignore[assignment]
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
        wire_of_upstreams.select = poll
        time.monotonic, time.time, time.perf_counter = originals
        for function, plain, named in before:
            function.__defaults__, function.__kwdefaults__ = plain, named


def _other(value: Any, clocks: dict[Any, Any]) -> Any:
    return next((mine for clock, mine in clocks.items() if value is clock), value)


@functools.cache
def _with_clocks() -> list[FunctionType]:
    """All functions of the gateway that have a clock as a default."""
    clocks = (time.monotonic, time.time, time.perf_counter)
    found = []
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "gateway":
            continue
        for value in list(vars(module).values()):
            for each in list(vars(value).values()) if isinstance(value, type) else [value]:
                if isinstance(each, FunctionType):
                    defaults = [*(each.__defaults__ or ()), *(each.__kwdefaults__ or {}).values()]
                    if any(default is clock for default in defaults for clock in clocks):
                        found.append(each)
    return found


def run(main: Callable[[SimulatedLoop], Coroutine[Any, Any, None]], seed: int) -> None:
    """Run it to its end on a loop of its own."""
    loop = SimulatedLoop()
    wrong: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: wrong.append(context))
    with clocks_of(loop, seed):
        try:
            loop.run_until_complete(main(loop))
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
    assert not wrong, f"the event loop was told of {wrong[0]}"
