"""What a degraded answer says of itself: the `X-Gateway-Degraded` field, to the caller and to the upstream.

`iam; mode=stale; age=12` for a permit that IAM did not give now; `upstream; mode=stale; age=30` for an answer that the
upstream did not give now. Ages are whole seconds.
"""

from __future__ import annotations

from typing import Final

from gateway.exchange import Exchange
from gateway.model.permit import Permit
from gateway.model.route import FallbackResponse

DEGRADED: Final = b"x-gateway-degraded"


def iam_mark(permit: Permit) -> bytes | None:
    """What to say of a degraded permit, None if IAM decided."""
    if permit.degraded is None:
        return None
    return _mark("iam", permit.degraded, permit.age_s)


def upstream_mark(mode: str, age_s: float = 0.0) -> bytes:
    """What to say of an answer that is not the upstream's own of now: mode stale, fallback or partial."""
    return _mark("upstream", mode, age_s)


def iam_fallback_mark() -> bytes:
    """What a route's own response says, given while IAM cannot answer."""
    return _mark("iam", "fallback", 0.0)


def mark_degraded_permit(permit: Permit, exchange: Exchange) -> bytes | None:
    """Let every answer of this exchange say that its permit is degraded. Returns what it says, None if nothing."""
    mark = iam_mark(permit)
    if mark is not None:
        exchange.extra.append((DEGRADED, mark))
    return mark


async def respond_with(exchange: Exchange, response: FallbackResponse) -> None:
    """The route's own answer, made at load. It is for now, so nobody is to keep it."""
    headers = [header for header in response.headers if header[0] != b"cache-control"]
    headers += [(b"cache-control", b"no-store"), (b"x-request-id", exchange.request.request_id.encode("ascii"))]
    await exchange.respond(response.status, headers, response.body)


def _mark(who: str, mode: str, age_s: float) -> bytes:
    age = f"; age={int(age_s)}" if mode == "stale" else ""
    return f"{who}; mode={mode}{age}".encode("ascii")
