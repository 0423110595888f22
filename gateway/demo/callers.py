"""Who asks during a drill, and what they see: callers of every kind of route, and an operator who looks at circuits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx

from gateway.demo.state import DemoState

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
