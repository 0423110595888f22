"""`health.interval`: each origin of an upstream that has several is asked for its `health` path again and again.

Rules: an origin that does not answer 2xx within `health.timeout` is ill and passed over while there are others; the
next time that it answers, it is used again. Origins are asked at the same time, the first time at once. An upstream
with one origin has nothing to choose from, and one without a `health` path nothing to ask: neither is looked after.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from gateway.app.health import ask_origin
from gateway.forward.health import ailment
from gateway.model.settings import HealthCheck
from gateway.upstream import Upstream
from gateway.upstream.origins import Member

_LOG: Final = logging.getLogger("gateway")


class Checker:
    """One upstream's background task. Constructed in the event loop; ends with `aclose`."""

    def __init__(self, upstream: Upstream, check: HealthCheck) -> None:
        self._upstream = upstream
        self._check = check
        self._task = asyncio.get_running_loop().create_task(self._look_after())

    async def aclose(self) -> None:
        """End the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look_after(self) -> None:
        while True:
            await asyncio.gather(*(self._look_at(member) for member in self._upstream.members))
            await asyncio.sleep(self._check.interval_s)

    async def _look_at(self, member: Member) -> None:
        wrong = await ailment(partial(ask_origin, member, self._check), self._check.timeout_s)
        if not wrong and member.suspect:
            member.looks_well()
        if member.ill != bool(wrong):
            member.ill = bool(wrong)
            if wrong:
                member.send_away()
            level, change = (
                (logging.WARNING, f"passed over ({wrong.cause or wrong.text})")
                if wrong
                else (logging.INFO, "used again")
            )
            _LOG.log(level, "[health] [%s] %s is %s", self._upstream.name, member.origin, change)
