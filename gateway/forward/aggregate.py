"""One answer from several systems, partial when some fail (docs/partial-answers.md).

Rules: all systems that the permit allows are asked at the same time, each for itself, so the answer takes as long as
the slowest of them and no longer than the deadline, less a moment to compose it; a system that hangs delays nobody by
more than its own timeout. What one system does, however wrong, is that system's failure. A system without a decision in
the permit is not asked. Too few answers are a 503, or the route's own response where it has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.aggregate_document import AggregateDocument, Answers
from gateway.forward.asking import PARTIAL, a_moment_before
from gateway.forward.json_text import write
from gateway.forward.marks import DEGRADED, mark_degraded_permit, respond_with, upstream_mark
from gateway.forward.parts import PartCaller, unanswered
from gateway.forward.shown import server_timing
from gateway.model.permit import Permit
from gateway.model.question import Outcome
from gateway.model.record import AccessRecord
from gateway.model.request import Headers
from gateway.model.route import AggregateAction, Route, UpstreamFailureMode
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer, Span


class Gatherer:
    """Asks the systems of one aggregate and composes what they said: the part that single and bulk requests share."""

    def __init__(self, route: Route, callers: Sequence[PartCaller]) -> None:
        if not isinstance(route.action, AggregateAction):
            raise TypeError(f"route {route.id} is not an aggregate")
        if [caller.part.name for caller in callers] != [part.name for part in route.action.parts]:
            raise ValueError(f"route {route.id} needs a caller for each of its systems, in their order")
        self.document = AggregateDocument(route.action)
        self._callers = tuple(callers)

    async def gather(self, permit: Permit, *, deadline: Deadline, span: Span, record: AccessRecord) -> Answers:
        """Ask every permitted system at once. Raises only `bad_request`, before anybody is asked."""
        decisions = dict(permit.parts)
        allowed = {name for name, decision in decisions.items() if decision.outcome is Outcome.ALLOW}
        prepared = [(caller, caller.outgoing(permit)) for caller in self._callers if caller.part.name in allowed]
        until = a_moment_before(deadline)
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(
                    # Each enforces a deadline of its own.
                    caller.ask(
                        outgoing, permit, deadline=Deadline(until.at_s, until.granted_s), span=span, record=record
                    )
                )
                for caller, outgoing in prepared
            ]
        answers = {answer.name: answer for answer in (task.result() for task in asking)}
        record.upstream = ",".join(caller.part.upstream for caller, _ in prepared)
        for name, decision in decisions.items():
            if decision.outcome is Outcome.UNKNOWN:
                answers[name] = unanswered(name, decision.fault)
        names = [caller.part.name for caller in self._callers]
        denied = [name for name in names if name in decisions and decisions[name].outcome is Outcome.DENY]
        return Answers([answers[name] for name in names if name in answers], denied)


class AggregateEndpoint:
    """Serves one aggregate route."""

    def __init__(self, route: Route, gatherer: Gatherer, observer: Observer) -> None:
        self._route = route
        self._gatherer = gatherer
        self._observer = observer

    async def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> None:
        """Answer with what the systems said."""
        mark_degraded_permit(permit, exchange)
        said = await self._gatherer.gather(permit, deadline=deadline, span=exchange.span, record=exchange.record)
        deadline.stop()
        shortfall = self._gatherer.document.shortfall(said)
        if shortfall is not None:
            await self._without_answer(permit, exchange, shortfall)
            return
        document = self._gatherer.document.compose(permit.request.params, said)
        await exchange.respond(200, self._headers(permit, exchange, said), write(document))

    async def _without_answer(self, permit: Permit, exchange: Exchange, shortfall: GatewayError) -> None:
        """The route's own response, where it has one; else the error."""
        rule = self._route.on_upstream_failure.get(permit.request.method)
        if rule is None or rule.mode is not UpstreamFailureMode.FALLBACK or rule.response is None:
            raise shortfall
        exchange.record.code = shortfall.code
        self._degraded(exchange, "fallback")
        exchange.extra.append((DEGRADED, upstream_mark("fallback")))
        await respond_with(exchange, rule.response)

    def _headers(self, permit: Permit, exchange: Exchange, said: Answers) -> Headers:
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", permit.request.request_id.encode("ascii")),
        ]
        age_s = said.oldest_s
        if said.failures:
            self._degraded(exchange, PARTIAL)
            exchange.record.reason = said.failures_in_words
            headers.append((DEGRADED, upstream_mark(PARTIAL)))
        elif age_s is not None:
            self._degraded(exchange, "stale")
            headers.append((DEGRADED, upstream_mark("stale", age_s)))
        whole = not said.failures and age_s is None
        headers.append((b"cache-control", b"private, no-cache" if whole else b"no-store"))
        if self._route.server_timing:
            headers.append(server_timing(exchange.record))
        return headers

    def _degraded(self, exchange: Exchange, mode: str) -> None:
        exchange.record.degraded = mode
        exchange.span.event("degraded", mode=mode)
        self._observer.degraded(self._route.id, mode)
