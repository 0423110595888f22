"""One answer from several systems, partial when some fail (docs/partial-answers.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from gateway.errors import KINDS, GatewayError
from gateway.exchange import Exchange
from gateway.forward.asking import PARTIAL, a_moment_before
from gateway.forward.heads import DEGRADED, mark_degraded_permit, respond_with, server_timing, upstream_mark
from gateway.forward.json_text import ABSENT, look_up, parse, write
from gateway.forward.parts import Failure, PartAnswer, PartCaller, unanswered
from gateway.model.permit import Outcome, Permit
from gateway.model.request import AccessRecord, Headers
from gateway.model.route import AggregateAction, Comparison, Route, UpstreamFailureMode
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer, Span

# Differences between systems about the same thing: in pairs, in the order of the systems.
#
# Rules: only systems that answered and found are compared. A value that a system does not have counts as null. Values
# are compared as JSON: `1` is `1.0`, but neither is `true`. The order of members does not matter, that of a list does.

Discrepancy = dict[str, Any]


class Comparer:
    """The comparisons of one aggregate, their pointers parsed. `systems` are all systems in order."""

    def __init__(self, comparisons: Sequence[Comparison], systems: Sequence[str]) -> None:
        self._comparisons = [
            (one.field, one.severity, [(name, parse(one.values[name])) for name in systems if name in one.values])
            for one in comparisons
        ]

    def discrepancies(self, found: Mapping[str, Any]) -> list[Discrepancy]:
        """All disagreements between the bodies of the systems in `found`."""
        return [
            {
                "field": field,
                "system_a": system_a,
                "value_a": value_a,
                "system_b": system_b,
                "value_b": value_b,
                "severity": severity,
            }
            for field, severity, pointers in self._comparisons
            for (system_a, value_a), (system_b, value_b) in combinations(_values(pointers, found), 2)
            if not same(value_a, value_b)
        ]


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same value."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def _values(pointers: Sequence[tuple[str, tuple[str, ...]]], found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    values = [(name, look_up(found[name], tokens)) for name, tokens in pointers if name in found]
    return [(name, None if value is ABSENT else value) for name, value in values]


# The answer of an aggregate, made from what its systems said. Pure: no waiting, no network.
#
# Rules: the path's parameters come first, then who was asked and who answered. A denied system is not asked and is
# listed in `systems_denied`; the answer can still be complete. With a failed system the answer is not complete.
# `*_found` is None if a system did not answer, because False would say that it did. Systems are always in the
# route's order.

_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class Answers:
    """What the systems said, in the route's order. `denied`: systems that were not asked."""

    answers: Sequence[PartAnswer]
    denied: Sequence[str]

    @property
    def failures(self) -> dict[str, Failure]:
        """Why systems did not answer."""
        return {answer.name: answer.failure for answer in self.answers if answer.failure is not None}

    @property
    def failures_in_words(self) -> str:
        """Why systems did not answer, for the log."""
        return ", ".join(f"{name}: {failure.in_words}" for name, failure in self.failures.items())

    @property
    def oldest_s(self) -> float | None:
        """The age of the oldest last good answer among them."""
        return max((answer.age_s for answer in self.answers if answer.age_s is not None), default=None)


class AggregateDocument:
    """Makes the documents of one aggregate."""

    def __init__(self, action: AggregateAction) -> None:
        self._action = action
        self._unknown = False if action.unknown_as_false else None
        self._found_fields = [(part.name, part.found_field) for part in action.parts if part.found_field]
        self._comparer = Comparer(action.compare, [part.name for part in action.parts])
        self._required = [part.name for part in action.parts if part.required]

    def echo(self, params: Mapping[str, str]) -> dict[str, Any]:
        """The path's parameters, as they stand at the top."""
        return {name: params[name] for name in self._action.echo if name in params}

    def compose(self, params: Mapping[str, str], said: Answers) -> dict[str, Any]:
        """The whole answer."""
        failures = said.failures
        found = {answer.name: answer.data for answer in said.answers if answer.found}
        discrepancies = self._comparer.discrepancies(found)
        document = self.echo(params)
        document["systems_checked"] = [answer.name for answer in said.answers]
        document["systems_available"] = [answer.name for answer in said.answers if answer.failure is None]
        document["systems_failed"] = list(failures)
        if said.denied:
            document["systems_denied"] = list(said.denied)
        stale = {answer.name: int(answer.age_s) for answer in said.answers if answer.age_s is not None}
        if stale:
            document["systems_stale"] = stale
        document["failures"] = {name: failure.document for name, failure in failures.items()}
        knows = {answer.name: answer.found for answer in said.answers if answer.failure is None}
        document.update({field: knows.get(name, self._unknown) for name, field in self._found_fields})
        document["complete"] = not failures
        document["discrepancy_count"] = len(discrepancies)
        document["discrepancies"] = discrepancies
        if self._action.include_data:
            document["data"] = found
        return document

    def shortfall(self, said: Answers) -> GatewayError | None:
        """The 503 that too few answers mean, with the smallest wait after which there could be enough.

        The wait is not spread yet: the caller of this function spreads it, once.
        """
        failures = said.failures
        missing = self._action.require - (len(said.answers) - len(failures))
        waits_s = sorted(_wait_s(failure) for failure in failures.values())
        needed_s = [_wait_s(failures[name]) for name in self._required if name in failures]
        # Too few answers are a 503, or the route's own response where it has one.
        if missing <= 0 and not needed_s:
            return None
        if missing > 0:
            needed_s.append(waits_s[min(missing, len(waits_s)) - 1] if waits_s else 1.0)
        available = len(said.answers) - len(failures)
        return GatewayError(
            _code(failures),
            f"{available} of {len(said.answers)} systems answered, which is too few.",
            retry_after_s=max(needed_s),
            reason=said.failures_in_words,
        )


def _wait_s(failure: Failure) -> float:
    return 1.0 if failure.wait_s is None else failure.wait_s


def _code(failures: Mapping[str, Failure]) -> str:
    """The one reason that all failures share, where it is a 503; else that systems failed."""
    codes = {failure.code for failure in failures.values()}
    code = codes.pop() if len(codes) == 1 else "upstream_error"
    return code if code in KINDS and KINDS[code].status == _UNAVAILABLE else "upstream_error"


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
        # A system without a permit is not asked.
        allowed = {name for name, decision in decisions.items() if decision.outcome is Outcome.ALLOW}
        prepared = [(caller, caller.outgoing(permit)) for caller in self._callers if caller.part.name in allowed]
        # Time is left to compose the answer.
        until = a_moment_before(deadline)
        # All at the same time: the answer takes as long as the slowest system, and no system delays another.
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
