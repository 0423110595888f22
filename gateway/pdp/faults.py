"""Breaks the decision point on purpose: for drills only, and only with `gateway iam --control`.

`POST /-/fault` with `{"mode": "hang", "for_s": 30}` sets a fault, `GET /-/fault` shows it. Without `for_s` it stays
until the next one; `{"mode": "ok"}` mends.

| mode | what a caller sees |
|---|---|
| `ok` | answers |
| `hang` | the connection is accepted and nothing comes until the fault ends |
| `slow` | answers after `delay_ms` (4000 unless given) |
| `errors` | 500 |
| `down` | connections are reset as soon as something is asked |

Rules: `/-/fault` is answered in every mode, to loopback peers alone, and only for JSON bodies without an `Origin`, so
that no page in a browser can break anything. `Capacity` plays a small machine: so many requests at a time, each with a
delay of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.pdp.wire import BadRequest, check_content_type, read_object

CONTROL_PATH: Final = "/-/fault"
MODES: Final = ("ok", "hang", "slow", "errors", "down")
MAX_FOR_S: Final = 3600.0
MAX_CONTROL_BODY: Final = 4096
DEFAULT_DELAY_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class Capacity:
    """`at_once` requests are answered at a time (0: no limit), each after `delay_s` seconds."""

    at_once: int = 0
    delay_s: float = 0.0


AMPLE: Final = Capacity()


class FaultSwitch:
    """Which fault is on. `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._mode = "ok"
        self._ends_at_s: float | None = None
        self._changed = asyncio.Event()
        self.delay_s = DEFAULT_DELAY_S

    @property
    def mode(self) -> str:
        """The fault of this moment."""
        if self._ends_at_s is not None and self._clock() >= self._ends_at_s:
            self.set("ok")
        return self._mode

    def set(self, mode: str, for_s: float | None = None, delay_s: float = DEFAULT_DELAY_S) -> None:
        """Turn a fault on, for `for_s` seconds or until the next call."""
        self._mode = mode
        self._ends_at_s = None if for_s is None else self._clock() + for_s
        self.delay_s = delay_s
        self._changed.set()
        self._changed = asyncio.Event()

    async def until_changed(self) -> None:
        """Wait until the fault ends or another is set."""
        left = None if self._ends_at_s is None else max(0.0, self._ends_at_s - self._clock())
        try:
            await asyncio.wait_for(self._changed.wait(), left)
        except TimeoutError:
            return

    def snapshot(self) -> dict[str, Any]:
        """What `GET /-/fault` shows."""
        mode = self.mode
        left = None if self._ends_at_s is None else round(self._ends_at_s - self._clock(), 3)
        return {"mode": mode, "for_s": left}


class BreakableApp:
    """The decision point behind a switch, as small as `capacity` says."""

    def __init__(self, app: ASGIApp, switch: FaultSwitch | None, capacity: Capacity) -> None:
        self._app = app
        self._switch = switch
        self._delay_s = capacity.delay_s
        self._places: AbstractAsyncContextManager[Any] = (
            asyncio.Semaphore(capacity.at_once) if capacity.at_once else nullcontext()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as the switch says."""
        if self._switch is not None:
            if scope["path"] == CONTROL_PATH:
                response = await _control(self._switch, Request(scope, receive))
                await response(scope, receive, send)
                return
            if await _spoiled(self._switch):
                await JSONResponse({"title": "Broken on purpose", "status": 500}, 500)(scope, receive, send)
                return
        async with self._places:
            await asyncio.sleep(self._delay_s)
            await self._app(scope, receive, send)


async def _spoiled(switch: FaultSwitch) -> bool:
    """Wait as the fault demands; True where the answer is an error."""
    while switch.mode == "hang":
        await switch.until_changed()
    if switch.mode == "slow":
        await asyncio.sleep(switch.delay_s)
    return switch.mode == "errors"


async def _control(switch: FaultSwitch, request: Request) -> Response:
    if not _from_here(request):
        return JSONResponse({"title": "Loopback only", "status": 403}, 403)
    if request.method not in ("GET", "POST"):
        return JSONResponse({"title": "Method not allowed", "status": 405}, 405, {"allow": "GET, POST"})
    if request.method == "POST":
        try:
            check_content_type(request.headers.get("content-type"))
            wanted = read_object(await _small_body(request))
            switch.set(
                _mode(wanted), _number(wanted, "for_s", None), (_number(wanted, "delay_ms", 4000.0) or 0.0) / 1000
            )
        except BadRequest as error:
            return JSONResponse({"title": "Bad request", "status": 400, "detail": str(error)}, 400)
    return JSONResponse(switch.snapshot())


def _from_here(request: Request) -> bool:
    host = request.client.host if request.client else ""
    try:
        return ipaddress.ip_address(host).is_loopback and "origin" not in request.headers
    except ValueError:
        return False


async def _small_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_CONTROL_BODY:
            raise BadRequest("The body is too large.")
    return body


def _mode(wanted: Mapping[str, Any]) -> str:
    mode = wanted.get("mode")
    if mode not in MODES:
        raise BadRequest(f"mode is none of {', '.join(MODES)}.")
    return str(mode)


def _number(wanted: Mapping[str, Any], name: str, default: float | None) -> float | None:
    value = wanted.get(name, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MAX_FOR_S * 1000:
        raise BadRequest(f"{name} is not a positive number.")
    return float(value)
