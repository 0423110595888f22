"""`circuit_breaker.probe` of a route: while its circuit is open the gateway asks the upstream's health by itself.

What is asked is what `/health/systems` asks: the `health` path, else a TCP connect, within `health.timeout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.errors import GatewayError
from gateway.forward.health import Unavailable
from gateway.resilience.breaker import Breaker
from gateway.resilience.probe import probe_loop


class Prober:
    """One breaker's background task. Constructed in the event loop; ends with `aclose`."""

    def __init__(
        self, breaker: Breaker, ask: Callable[[], Awaitable[None]], *, interval_s: float, timeout_s: float
    ) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self._task = asyncio.get_running_loop().create_task(probe_loop(breaker, self._attempt, interval_s))

    async def aclose(self) -> None:
        """End the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _attempt(self) -> str:
        """The failure's code, or nothing."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._ask()
        except TimeoutError:
            return "upstream_timeout"
        except Unavailable:
            return "upstream_unavailable"
        except GatewayError as error:
            return error.code
        return ""
