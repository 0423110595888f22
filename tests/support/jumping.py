"""An event loop that never waits: it jumps to the time of the next timer. Sockets are looked at in every turn."""

from __future__ import annotations

import asyncio
import selectors


class JumpingLoop(asyncio.SelectorEventLoop):
    """Where others wait, this one jumps to the time of the next timer."""

    def __init__(self):
        self.now = 1000.0
        super().__init__(_Jumps(self))

    def time(self):
        return self.now


class _Jumps(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits for nothing"
            self.loop.now += max(timeout, 0.0)
        return ready


def on_jumping_clock(main):
    loop = JumpingLoop()
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()
