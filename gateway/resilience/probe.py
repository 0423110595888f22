"""Trying by itself: a task that closes an open circuit early, where a policy says `probe`.

Rules: it tries only while the circuit is open, in the place of the one trial; a failed probe changes nothing; it ends
when it is cancelled by the one who started it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.resilience.breaker import Breaker


async def probe_loop(breaker: Breaker, attempt: Callable[[], Awaitable[str]], interval_s: float) -> None:
    """Every `interval_s` while the circuit is open: `attempt` returns the failure's code, or an empty string.

    `attempt` limits its own time and raises nothing but cancellation.
    """
    while True:
        await asyncio.sleep(interval_s)
        ticket = breaker.probe()
        if ticket is None:
            continue
        try:
            code = await attempt()
        except BaseException:
            ticket.neutral()
            raise
        if code:
            ticket.failure(code)
        else:
            ticket.success()
