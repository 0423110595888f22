"""The health of all systems: IAM and every upstream asked at the same time, in one document."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.model.permit import Permit
from gateway.resilience.deadline import Deadline

_SHARED_S: Final = 1.0
_CONNECT_TIMEOUT: Final = "connection_timeout"
_WORST: Final = ("open", "half_open", "closed")
_HEADERS: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class Circuit(Protocol):
    """What is shown of a breaker."""

    @property
    def state(self) -> str:
        """One of closed, open, half_open."""

    def remaining_s(self) -> float:
        """Seconds until the open circuit lets a trial through."""


class Unavailable(Exception):
    """A probe failed; the text is for people and names no host. `cause`, for operators, may."""

    def __init__(self, text: str, cause: str = "") -> None:
        super().__init__(text)
        self.cause = cause


class Ailment(NamedTuple):
    """What is wrong with a system: for anybody, and for operators."""

    text: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class System:
    """One line of the report. `probe` raises Unavailable or GatewayError, and is cancelled after `timeout_s`.

    `addresses`: for operators, how each of several was found by the last probe.
    """

    name: str
    probe: Callable[[], Awaitable[None]]
    circuits: Callable[[], Sequence[Circuit]]
    timeout_s: float = 2.0
    addresses: Callable[[], dict[str, Any]] = dict


class SystemsHealth:
    """Asks all systems, at most once a second. `clock` is monotonic, `wall` Unix time, both in seconds."""

    def __init__(
        self,
        systems: Sequence[System],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._systems = tuple(systems)
        self._clock = clock
        self._wall = wall
        self._asking: asyncio.Task[dict[str, Any]] | None = None
        self._answered_s = 0.0

    async def report(self) -> dict[str, Any]:
        """The document of docs/partial-answers.md, at most a second old. A caller who leaves cancels nobody else's.

        With causes, which name addresses: for operators.
        """
        asking = self._asking
        # Shared for a second, so that health checks do not load the systems.
        if asking is None or (asking.done() and self._clock() - self._answered_s >= _SHARED_S):
            asking = self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(asking)

    async def aclose(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> dict[str, Any]:
        lines = await asyncio.gather(*(self._look(system) for system in self._systems))
        self._answered_s = self._clock()
        systems = {system.name: line for system, line in zip(self._systems, lines, strict=True)}
        return {"timestamp": _timestamp(self._wall()), "systems": systems, "summary": _summary(systems)}

    async def _look(self, system: System) -> dict[str, Any]:
        begun_s = self._clock()
        # A probe does not ask the breakers, and does not count for them.
        wrong = await ailment(system.probe, system.timeout_s)
        if wrong:
            cause = {"cause": wrong.cause} if wrong.cause else {}
            line = {"available": False, "error": wrong.text, **cause, **_circuit(system.circuits())}
            return _with_addresses(line, system)
        took_ms = round((self._clock() - begun_s) * 1000)
        return _with_addresses({"available": True, "response_time_ms": took_ms, **_circuit(system.circuits())}, system)


class HealthEndpoint:
    """The report as a route's answer: 200 whatever the systems do, so that it can be read while they are down."""

    def __init__(self, health: SystemsHealth) -> None:
        self._health = health

    async def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> None:  # Endpoint
        """Answer with the report."""
        body = json.dumps(_without_causes(await self._health.report()), separators=(",", ":")).encode()
        request_id = exchange.request.request_id.encode("ascii")
        await exchange.respond(200, [*_HEADERS, (b"x-request-id", request_id)], body)


async def ailment(probe: Callable[[], Awaitable[None]], timeout_s: float) -> Ailment | None:
    """What is wrong, by a probe that is cancelled after `timeout_s`; None if nothing is."""
    try:
        async with asyncio.timeout(timeout_s):
            await probe()
    except TimeoutError:
        return Ailment(f"no answer in {timeout_s:g}s")
    except Unavailable as failure:
        return Ailment(str(failure), failure.cause)
    except GatewayError as failure:
        if failure.proxy_error == _CONNECT_TIMEOUT:
            return Ailment(f"connect timeout after {timeout_s:g}s", failure.reason)
        return Ailment(failure.proxy_error.replace("_", " "), failure.reason)
    return None


def _without_causes(report: dict[str, Any]) -> dict[str, Any]:
    # Causes name addresses, so only operators see them.
    systems = {
        name: {key: value for key, value in line.items() if key not in ("cause", "urls")}
        for name, line in report["systems"].items()
    }
    return {**report, "systems": systems}


def _with_addresses(line: dict[str, Any], system: System) -> dict[str, Any]:
    addresses = system.addresses()
    return {**line, "urls": addresses} if addresses else line


def _circuit(circuits: Sequence[Circuit]) -> dict[str, Any]:
    """The worst circuit's state and, while it is open, the seconds until the next trial."""
    if not circuits:
        return {"circuit": "closed"}
    worst = min(circuits, key=lambda circuit: (_WORST.index(circuit.state), -circuit.remaining_s()))
    remaining_s = worst.remaining_s()
    return {"circuit": worst.state, **({"retry_after": math.ceil(remaining_s)} if remaining_s > 0 else {})}


def _summary(systems: dict[str, dict[str, Any]]) -> dict[str, int]:
    total = len(systems)
    available = sum(line["available"] for line in systems.values())
    return {
        "total_systems": total,
        "available_systems": available,
        "unavailable_systems": total - available,
        "availability_percentage": round(100 * available / total) if total else 100,
    }


def _timestamp(unix_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
