"""What navigation, permissions and aggregates share: asking for decisions, calling a system, reporting an outage.

Nothing here makes a permit. These are the types of what the composition root passes in, because stages do not import
one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.body import upload
from gateway.model.permit import Decision, Outcome, Question, void_credentials
from gateway.model.request import AccessRecord
from gateway.problem import spread_retry_after
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Span
from gateway.upstream.answer import Answer
from gateway.upstream.outgoing import Outgoing

PARTIAL: Final = "partial"
IAM_PARTIAL: Final = (b"x-gateway-degraded", b"iam; mode=partial")
_MOMENT_S: Final = 0.1
_SHARE: Final = 0.05
JSON_HEADERS: Final = [(b"content-type", b"application/json"), (b"cache-control", b"private, no-store")]


class Decide(Protocol):
    """Asks for decisions: the cache first, IAM for the rest, all at once (`Authorizer.decide`)."""

    async def __call__(
        self, questions: Sequence[Question], *, deadline: Deadline, request_id: str, span: Span, client: str = ""
    ) -> list[Decision]:
        """One decision a question, in order."""


class Guarded(Protocol):
    """One (route or part, upstream) pair with its breaker and retries (`GuardedUpstream`)."""

    async def exchange(
        self, outgoing: Outgoing, *, deadline: Deadline, span: Span, replayable: bool, record: AccessRecord
    ) -> Answer:
        """The response head with its body to be read, or GatewayError."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Some decisions are not known. `retry_after` in whole seconds, already spread."""

    code: str
    retry_after: int


def outage_of(decisions: Sequence[Decision]) -> Outage | None:
    """Why some decisions are not known: IAM's own failure before what is wrong with a single question."""
    faults = [decision.fault for decision in decisions if decision.outcome is Outcome.UNKNOWN and decision.fault]
    if not faults:
        return None
    fault = max(faults, key=_weight)
    return Outage(fault.code, spread_retry_after(fault.retry_after_s or 1.0))


def a_moment_before(deadline: Deadline) -> Deadline:
    """The end of asking. Nothing waits longer than this, so that the answer can still be composed and sent.

    5 % of what is left, at most 100 ms.
    """
    left_s = deadline.remaining_s()
    return Deadline(deadline.at_s - min(_MOMENT_S, left_s * _SHARE), deadline.granted_s)


async def body_of(exchange: Exchange, deadline: Deadline, max_body: int) -> bytes:
    """The caller's whole body, at most `max_body` bytes; the time in which it is sent does not count."""
    body = (await upload(exchange, deadline, max_body=max_body, hold=max_body)).body
    return body if isinstance(body, bytes) else b""


def refuse_void_credentials(decisions: Sequence[Decision]) -> None:
    """Raise `unauthenticated` if IAM does not know the token: then its decisions are about nobody."""
    if any(decision.unauthenticated for decision in decisions):
        raise void_credentials()


def _weight(fault: GatewayError) -> tuple[bool, float]:
    return (fault.kind.degrades, fault.retry_after_s or 0.0)
