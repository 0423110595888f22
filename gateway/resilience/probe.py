"""A task that tries an open circuit and closes it early, if a policy has `probe`.

Rules: it tries only while the circuit is open, in the place of the one trial; a failed probe changes nothing; an
operator's `try` is a try at once; it ends when it is cancelled by the one who started it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.resilience.breaker import Breaker


async def probe_loop(
    breaker: Breaker,
    attempt: Callable[[], Awaitable[str]],
    interval_s: float,
    *,
    believed: Callable[[], bool] = lambda: True,
) -> None:
    """Every `interval_s` while the circuit is open: `attempt` returns the failure's code, or an empty string.

    `attempt` limits its own time and raises nothing but cancellation. `believed`: whether a good answer to it proves
    that the dependency works; if not, a caller's request is the trial as soon as the answer is good.
    """
    nudge = _Nudge()
    breaker.on_try.append(nudge)
    try:
        while True:
            await nudge.pause(interval_s)
            await _try(breaker, attempt, believed)
            nudge.tried()
    finally:
        breaker.on_try.remove(nudge)
        nudge.done()


class _Nudge:
    """How the operator's `try` reaches the task: a call ends its pause, the future is done when it has tried."""

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    def __call__(self) -> asyncio.Future[None]:
        self._wanted.set()
        self._waiting.append(asyncio.get_running_loop().create_future())
        return self._waiting[-1]

    async def pause(self, interval_s: float) -> None:
        try:
            async with asyncio.timeout(interval_s):
                await self._wanted.wait()
        except TimeoutError:
            pass
        self._wanted.clear()

    def tried(self) -> None:
        """Notify those who asked for this try. Those who asked during it get another one."""
        if not self._wanted.is_set():
            self.done()

    def done(self) -> None:
        """Release everybody who still waits."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


async def _try(breaker: Breaker, attempt: Callable[[], Awaitable[str]], believed: Callable[[], bool]) -> None:
    ticket = breaker.probe()
    if ticket is None:
        return
    try:
        code = await attempt()
    except BaseException:
        ticket.neutral()
        raise
    if code:
        ticket.failure(code)
    elif believed():
        ticket.success()
    else:
        ticket.neutral()
        breaker.end_open_time()
