"""Breaks a part of the running demo and watches, as callers do, what becomes of their requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from gateway.demo.state import DemoState
from gateway.demo.view import View

# Who asks during a drill, and what they see: callers of every kind of route, and an operator who looks at circuits.

_LOOK_S: Final = 0.5
UNKNOWN: Final = "-"
"""Nobody has been answered yet."""
_SHORT: Final = {"partial": "part"}


@dataclass(frozen=True, slots=True)
class Probe:
    """One request that a caller makes: who, what, and the name it has in the view."""

    name: str
    person: str | None
    path: str


PROBES: Final = (
    Probe("inventory", "alice", "/inventory/7"),
    Probe("monitoring", "alice", "/monitoring/alarms"),
    Probe("public", None, "/public/status"),
    Probe("navigation", "alice", "/registry/navigation"),
    Probe("audit", "alice", "/audit/users/john.doe@wheels.com"),
    Probe("denied", "mallory", "/inventory/7"),
)


class Caller:
    """Asks again as soon as it may. `answered_s`: when it began to ask what it was last answered, monotonic seconds."""

    def __init__(self, probe: Probe, state: DemoState, client: httpx.AsyncClient) -> None:
        self.probe = probe
        self.answered_s = 0.0
        self._full = "not asked yet"
        self._last = UNKNOWN
        self._code = ""
        self._url = state.gateway + probe.path
        self._headers = {"authorization": f"Bearer {state.tokens[probe.person]}"} if probe.person else {}
        self._client = client
        self._asking: asyncio.Task[None] | None = None
        self._since = 0.0

    @property
    def cell(self) -> str:
        """In a few letters: what it was answered, or how long it waits."""
        waited_s = time.monotonic() - self._since
        return f"wait {waited_s:.0f}s" if self._waits and waited_s > _LOOK_S else self._last

    @property
    def full(self) -> str:
        """The same in full."""
        return "waits for an answer" if self.cell.startswith("wait") else self._full

    @property
    def kind(self) -> str:
        """What it sees without numbers that move: another kind is a change."""
        return "wait" if self.cell.startswith("wait") else f"{self._last} {self._code}"

    def ask_if_free(self) -> None:
        """Ask, unless it still waits for an answer."""
        if not self._waits:
            self._since = time.monotonic()
            self._asking = asyncio.create_task(self._ask())

    def leave(self) -> None:
        """Wait for nothing any more."""
        if self._asking is not None:
            self._asking.cancel()

    @property
    def _waits(self) -> bool:
        return self._asking is not None and not self._asking.done()

    async def _ask(self) -> None:
        begun = self._since
        try:
            reply = await self._client.get(self._url, headers=self._headers)
        except httpx.HTTPError as error:
            self._last, self._full = "no answer", type(error).__name__
        else:
            self._code = code_of(reply)
            self._last, self._full = in_short(reply), f"{in_words(reply)}, {(time.monotonic() - begun) * 1000:.0f} ms"
        self.answered_s = begun


class Circuits:
    """The circuits and the health of the systems, looked at beside everything else."""

    def __init__(self, admin: str, client: httpx.AsyncClient) -> None:
        self._admin = admin
        self._client = client
        self._breakers: dict[str, Any] = {}
        self._down: list[str] = []

    @property
    def cell(self) -> str:
        """IAM's circuit in a few letters."""
        iam = self._breakers.get("iam")
        if iam is None:
            return UNKNOWN
        return f"open {iam['remaining_s']:.0f}s" if iam["state"] == "open" else str(iam["state"]).replace("_", "-")

    def missing(self) -> list[str]:
        """What is not well, in words."""
        circuits = []
        for name, one in self._breakers.items():
            if one["state"] == "open":
                circuits.append(f"the circuit of {name} (next trial in {one['remaining_s']:.0f} s)")
            elif one["state"] != "closed":
                circuits.append(f"the circuit of {name} (a trial runs)")
        return [*circuits, *(f"{name} to answer" for name in self._down)]

    async def look_for_ever(self) -> None:
        """Look again and again; a look that fails shows what was seen before."""
        await asyncio.gather(self._again(self._look_at_breakers), self._again(self._look_at_health))

    async def _again(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                await look()
            await asyncio.sleep(_LOOK_S)

    async def _look_at_breakers(self) -> None:
        self._breakers = (await self._client.get(f"{self._admin}/breakers")).json()["breakers"]

    async def _look_at_health(self) -> None:
        """Looking counts in no circuit."""
        systems = (await self._client.get(f"{self._admin}/health/systems")).json()["systems"]
        self._down = [name for name, system in systems.items() if not system["available"]]


def in_short(reply: httpx.Response) -> str:
    """Status and degradation, in a few letters."""
    degraded = reply.headers.get("x-gateway-degraded", "")
    mode = degraded.partition("mode=")[2].partition(";")[0] if degraded else ""
    return f"{reply.status_code} {_SHORT.get(mode, mode)[:6]}".rstrip()


def code_of(reply: httpx.Response) -> str:
    """The gateway's own code, "" for what is none of its errors."""
    ours = reply.headers.get("content-type", "").startswith("application/problem+json")
    return str(reply.json().get("code", "")) if ours else ""


def in_words(reply: httpx.Response) -> str:
    """Status, code, Retry-After and degradation of one answer."""
    words = [str(reply.status_code)]
    if code := code_of(reply):
        words.append(code)
    if "retry-after" in reply.headers:
        words.append(f"retry in {reply.headers['retry-after']}s")
    if "x-gateway-degraded" in reply.headers:
        words.append(f"({reply.headers['x-gateway-degraded']})")
    return " ".join(words)


# A drill is a fault, a time, and a row each second: the state of IAM's circuit and what the caller of every kind of
# route sees: the answer to its latest request, or how long it has been waiting for one. The rows keep time: nobody
# who hangs is waited for. It always repairs what it broke, also when it is interrupted.

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
        """Watch, break, watch for `for_s` seconds, repair, and watch it recover. Raises NoSuchPartError at once."""
        await self._break("ok")
        looking = asyncio.create_task(self._circuits.look_for_ever())
        self._due_s = time.monotonic()
        try:
            await self._watch(2 * PERIOD_S, "the fault")
            self._view.event(f"{self._fault.what} ({self._part}) for {for_s:g} s")
            self._broken = True
            await asyncio.gather(self._break(self._fault.mode), self._watch(for_s, "the end of the fault"))
            await asyncio.gather(self._repair(), self._recover())
        finally:
            if self._broken:
                await self._repair()
            looking.cancel()
            for caller in self._callers.values():
                caller.leave()
            self._view.close()
            await self._client.aclose()

    async def _repair(self) -> None:
        await self._break("ok")
        self._broken = False
        self._view.event("repaired")

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
