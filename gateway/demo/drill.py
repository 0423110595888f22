"""Breaks a part of the running demo and watches, as callers do, what becomes of their requests.

A drill is a fault, a time, and a row each second: the state of IAM's circuit and what the caller of every kind of route
sees: the answer to its latest request, or how long it has been waiting for one. The rows keep time: nobody who hangs is
waited for. It always mends what it broke, also when it is interrupted.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import httpx

from gateway.demo.callers import PROBES, UNKNOWN, Caller, Circuits
from gateway.demo.state import DemoState
from gateway.demo.view import View

PERIOD_S: Final = 1.0
PATIENCE_S: Final = 30.0
WELL_S: Final = 2
"""So many seconds in a row all has to be well."""
RECOVERY_S: Final = 75.0
"""Longer than the longest time that a circuit of the shipped configuration stays open."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a drill breaks: a part of the demo and how. `part` None: the system that the caller names."""

    part: str | None
    mode: str
    what: str


FAULTS: Final = {
    "iam-down": Fault("iam", "down", "IAM's process is killed"),
    "iam-hang": Fault("iam", "hang", "IAM accepts and never answers"),
    "iam-slow": Fault("iam", "slow", "IAM answers after four seconds"),
    "iam-errors": Fault("iam", "errors", "IAM answers 500"),
    "upstream-down": Fault(None, "down", "a system does not listen"),
    "upstream-hang": Fault(None, "hang", "a system accepts and never answers"),
    "upstream-slow": Fault(None, "slow", "a system answers after four seconds"),
    "upstream-errors": Fault(None, "errors", "a system answers 500"),
}


class NoSuchPartError(Exception):
    """The demo has no part of this name: one line for the user."""


class Drill:
    """One fault on one demo, shown in `view`."""

    def __init__(self, state: DemoState, fault: Fault, system: str, view: View) -> None:
        self._state = state
        self._fault = fault
        self._part = fault.part or system
        self._view = view
        self._client = httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S)
        self._callers = {probe: Caller(probe, state, self._client) for probe in PROBES}
        self._circuits = Circuits(state.admin, self._client)
        self._shown: list[str] = []
        self._broken = False
        self._due_s = 0.0

    async def run(self, for_s: float) -> None:
        """Watch, break, watch for `for_s` seconds, mend, and watch it recover. Raises NoSuchPartError at once."""
        await self._break("ok")
        looking = asyncio.create_task(self._circuits.look_for_ever())
        self._due_s = time.monotonic()
        try:
            await self._watch(2 * PERIOD_S, "the fault")
            self._view.event(f"{self._fault.what} ({self._part}) for {for_s:g} s")
            self._broken = True
            await asyncio.gather(self._break(self._fault.mode), self._watch(for_s, "the end of the fault"))
            await asyncio.gather(self._mend(), self._recover())
        finally:
            if self._broken:
                await self._mend()
            looking.cancel()
            for caller in self._callers.values():
                caller.leave()
            self._view.close()
            await self._client.aclose()

    async def _mend(self) -> None:
        await self._break("ok")
        self._broken = False
        self._view.event("mended")

    async def _watch(self, seconds: float, what_for: str) -> None:
        """Show each second, for so long."""
        end = time.monotonic() + seconds
        while self._due_s < end:
            await self._tick()
            self._show(f"{what_for} ({max(0.0, end - time.monotonic()):.0f} s)")
        await asyncio.sleep(max(0.0, end - time.monotonic()))

    async def _recover(self) -> None:
        """Show each second until everybody asked and was answered while all was well."""
        end, well_s, since = time.monotonic() + RECOVERY_S, 0, time.monotonic()
        while self._due_s < end and well_s < WELL_S:
            await self._tick()
            if self._broken:
                since = time.monotonic()
            missing = ["the repair"] if self._broken else self._missing(since)
            well_s = 0 if missing else well_s + 1
            self._show(", ".join(missing) or "nothing more")

    async def _tick(self) -> None:
        """A second after the last one, by the clock, however long anything takes."""
        await asyncio.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s += PERIOD_S

    def _missing(self, since: float) -> list[str]:
        """What is not as it was, and who was not answered since."""
        waiting = [caller.probe.name for caller in self._callers.values() if caller.answered_s <= since]
        whom = waiting[0] if len(waiting) == 1 else f"{len(waiting)} callers"
        return [*self._circuits.missing(), *([f"an answer to {whom}"] if waiting else [])]

    def _show(self, waits_for: str) -> None:
        """What is known at this moment; nobody is waited for. Then everybody who was answered asks again."""
        cells = [self._circuits.cell, *(caller.cell for caller in self._callers.values())]
        kinds = [cells[0].split()[0], *(caller.kind for caller in self._callers.values())]
        changed = [
            kind != old and not old.startswith(UNKNOWN) for kind, old in zip(kinds, self._shown or kinds, strict=True)
        ]
        told = [f"IAM: circuit {cells[0]}", *(f"{each.probe.name}: {each.full}" for each in self._callers.values())]
        notes = [text for text, new in zip(told, changed, strict=True) if new]
        self._shown = kinds
        if cells[-1] != UNKNOWN:
            self._view.second([time.strftime("%H:%M:%S"), *cells], [False, *changed], notes, waits_for)
        for caller in self._callers.values():
            caller.ask_if_free()

    async def _break(self, mode: str) -> None:
        reply = await self._client.post(
            f"{self._state.control}/break",
            json={"part": self._part, "mode": mode},
            headers={"authorization": f"Bearer {self._state.secret}"},
        )
        if reply.status_code == httpx.codes.NOT_FOUND:
            raise NoSuchPartError(reply.json()["error"])
        reply.raise_for_status()
