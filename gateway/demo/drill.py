"""Breaks a part of the running demo and watches, as callers do, what becomes of their requests.

A drill is a fault, a time, and one line each second: the state of the circuits, which systems are down, and what the
caller of every kind of route sees: the answer to its latest request, or how long it has been waiting for one. It always
mends what it broke, also when it is interrupted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from gateway.demo.state import DemoState

PERIOD_S: Final = 1.0
PATIENCE_S: Final = 30.0
RECOVERY_S: Final = 75.0
"""Longer than the longest time that a circuit of the shipped configuration stays open."""
WELL: Final = "[iam closed]"
"""What a line says of the systems when there is nothing to say."""


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


class NoSuchPartError(Exception):
    """The demo has no part of this name: one line for the user."""


class Drill:
    """One fault on one demo. `say` shows a line."""

    def __init__(self, state: DemoState, fault: Fault, system: str, say: Callable[[str], None]) -> None:
        self._state = state
        self._fault = fault
        self._part = fault.part or system
        self._say = say
        self._client = httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S)
        self._asking: dict[Probe, asyncio.Task[str]] = {}
        self._since: dict[Probe, float] = {}

    async def run(self, for_s: float) -> None:
        """Watch, break, watch for `for_s` seconds, mend, and watch it recover. Raises NoSuchPartError at once."""
        await self._break("ok")
        try:
            await self._watch(2 * PERIOD_S)
            self._say(f"-- {self._fault.what} ({self._part}) for {for_s:g} s")
            await self._break(self._fault.mode)
            await self._watch(for_s)
        finally:
            await self._break("ok")
            self._say("-- mended")
        await self._watch(RECOVERY_S, until_well=True)
        for asking in self._asking.values():
            asking.cancel()
        await self._client.aclose()

    async def _watch(self, seconds: float, *, until_well: bool = False) -> None:
        """A line each second, for so long or until everybody asked and was answered while all was well."""
        end = time.monotonic() + seconds
        well = False
        while (now := time.monotonic()) < end and not (until_well and well):
            before = await self._circuits()
            self._ask_all()
            _, waiting = await asyncio.wait(self._asking.values(), timeout=PERIOD_S)
            circuits = await self._circuits()
            well = before == circuits == WELL and not waiting
            self._say("  ".join((time.strftime("%H:%M:%S"), circuits, *map(self._seen_by, PROBES))))
            await asyncio.sleep(max(0.0, min(PERIOD_S, end - now) - (time.monotonic() - now)))

    def _ask_all(self) -> None:
        """Everybody asks who does not wait for an answer still."""
        for probe in PROBES:
            if probe not in self._asking or self._asking[probe].done():
                self._since[probe] = time.monotonic()
                self._asking[probe] = asyncio.create_task(self._ask(probe))

    def _seen_by(self, probe: Probe) -> str:
        asking = self._asking[probe]
        return (
            asking.result() if asking.done() else f"{probe.name} waiting {time.monotonic() - self._since[probe]:.0f}s"
        )

    async def _ask(self, probe: Probe) -> str:
        """One request as its caller sees it, in a few words."""
        headers = {"authorization": f"Bearer {self._state.tokens[probe.person]}"} if probe.person else {}
        begun = time.monotonic()
        try:
            reply = await self._client.get(self._state.gateway + probe.path, headers=headers)
        except httpx.HTTPError as error:
            return f"{probe.name} {type(error).__name__}"
        return f"{probe.name} {in_words(reply)} {(time.monotonic() - begun) * 1000:.0f}ms"

    async def _breakers(self) -> dict[str, Any]:
        breakers: dict[str, Any] = (await self._client.get(f"{self._state.admin}/breakers")).json()["breakers"]
        return breakers

    async def _circuits(self) -> str:
        breakers = await self._breakers()
        iam = breakers["iam"]
        remaining = f" {iam['remaining_s']:.0f}s" if iam["state"] == "open" else ""
        notes = [f"{name} open" for name, one in breakers.items() if name != "iam" and one["state"] != "closed"]
        notes += [f"{name} down" for name in await self._down()]
        return f"[iam {iam['state']}{remaining}{''.join(f', {note}' for note in notes)}]"

    async def _down(self) -> list[str]:
        """The systems that are not available, as their health says; looking counts in no circuit."""
        report = (await self._client.get(f"{self._state.admin}/health/systems")).json()
        return [name for name, system in report["systems"].items() if name != "iam" and not system["available"]]

    async def _break(self, mode: str) -> None:
        reply = await self._client.post(
            f"{self._state.control}/break",
            json={"part": self._part, "mode": mode},
            headers={"authorization": f"Bearer {self._state.secret}"},
        )
        if reply.status_code == httpx.codes.NOT_FOUND:
            raise NoSuchPartError(reply.json()["error"])
        reply.raise_for_status()


def in_words(reply: httpx.Response) -> str:
    """Status, code, Retry-After and degradation of one answer."""
    words = [str(reply.status_code)]
    if reply.headers.get("content-type", "").startswith("application/problem+json"):
        words.append(reply.json()["code"])
    if "retry-after" in reply.headers:
        words.append(f"retry in {reply.headers['retry-after']}s")
    if "x-gateway-degraded" in reply.headers:
        words.append(f"({reply.headers['x-gateway-degraded']})")
    return " ".join(words)
