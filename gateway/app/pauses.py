"""Work that could delay every request: work on all routes, done in slices, and garbage collection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final, TypeVar

# Work on all routes, a slice at a time: even with thousands of routes no request waits for all of it.
#
# What touches what serves stays on the event loop, in slices (`in_slices`); what only computes goes to a thread. Both
# are steps of a generator, so that the same work can also be done at once, before anything serves (`at_once`).

SLICE: Final = 50

T = TypeVar("T")
Steps = Generator[Callable[[], Any] | None, Any, T]
"""Yields work for a thread and is sent its result, or yields None to let other tasks run."""
Item = TypeVar("Item")
Made = TypeVar("Made")


def at_once(steps: Steps[T]) -> T:
    """All of it, now."""
    result: Any = None
    while True:
        try:
            step = steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
        result = None if step is None else step()


async def one_by_one(steps: Steps[T]) -> T:
    """Let other tasks run between steps."""
    result: Any = None
    while True:
        try:
            step = steps.send(result)
        except StopIteration as end:
            value: T = end.value
            return value
        result = await asyncio.sleep(0, None) if step is None else await asyncio.to_thread(step)


def each(items: Iterable[Item], make: Callable[[Item], Made]) -> Steps[list[Made]]:
    """`make` of every item; other tasks run after each slice."""
    made: list[Made] = []
    for item in items:
        made.append(make(item))
        if not len(made) % SLICE:
            yield None
    return made


async def in_slices(items: Iterable[Item], make: Callable[[Item], Made]) -> list[Made]:
    """`make` of every item, on the event loop."""
    return await one_by_one(each(items, make))


# Garbage collection for a server: objects from before the first request are not checked again.
#
# A request leaves no reference cycles, so there is almost nothing for the collector to do. With the interpreter's
# settings it checked all objects of the process repeatedly. This took an eighth of all time, with pauses of tens of
# milliseconds. Rule: only cycles that were made before serving or by a reload are never found. Loading and composing
# make none that grow with the routes; what a reload replaces goes without the collector.

_YOUNG: Final = 10_000
"""Objects made and not yet gone before the collector looks at them; the interpreter's own setting is 700."""
_OLDER: Final = 10


def wait() -> None:
    """Call once, before anything is loaded: what is made then stays, and is made faster without the collector."""
    gc.disable()


def settle() -> None:
    """Call once, when everything is constructed."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _OLDER, _OLDER)
    gc.enable()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """For a reload: it makes a million objects that stay, and the collector would go through them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
