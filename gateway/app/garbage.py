"""Garbage collection for a server: what was there before the first request is not looked at again.

A request leaves no circles behind, so that nearly nothing waits for the collector; with the interpreter's settings it
went through all objects of the process again and again, for an eighth of all time and pauses of tens of milliseconds.
Rule: only circles that were made before serving or by a reload are never found. Loading and composing make none that
grow with the routes; what a reload replaces goes without the collector.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

_YOUNG: Final = 10_000
"""Objects made and not yet gone before the collector looks at them; the interpreter's own setting is 700."""
_OLDER: Final = 10


def settle() -> None:
    """Call once, when everything is constructed."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _OLDER, _OLDER)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """For a reload: it makes a million objects that stay, and the collector would go through them again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
