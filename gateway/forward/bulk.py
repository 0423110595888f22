"""Many items of an aggregate in one request, each answered as by the single route (docs/partial-answers.md)."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.aggregate import Gatherer
from gateway.forward.asking import PARTIAL, a_moment_before, body_of
from gateway.forward.heads import mark_degraded_permit
from gateway.forward.json_text import look_up, parse, read_callers, write
from gateway.forward.parts import failure_of
from gateway.model.permit import Fallback, Permit
from gateway.model.request import AccessRecord, Request
from gateway.model.route import Bulk, Route
from gateway.negotiation import named_quality
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Observer, Span

MAX_BODY: Final = 1024 * 1024
_TOLD: Final = 10  # different failures in one line of the log
_LINES: Final = b"application/x-ndjson"
_KINDS: Final = ("complete", "partial", "failed", "denied")
_Result = dict[str, Any]
_Emit = Callable[[_Result], Awaitable[None]]


class DecideItems(Protocol):
    """A permit or a refusal for each item, all asked together (`Authorizer.decide_items`)."""

    async def __call__(
        self,
        permit: Permit,
        items: Sequence[Mapping[str, str]],
        *,
        deadline: Deadline,
        record: AccessRecord,
        span: Span,
    ) -> list[Permit | Fallback | GatewayError]:
        """In the order of the items."""


class BulkEndpoint:
    """Serves the bulk path of one aggregate route."""

    def __init__(
        self, route: Route, bulk: Bulk, gatherer: Gatherer, *, decide_items: DecideItems, observer: Observer
    ) -> None:
        self._route = route
        self._bulk = bulk
        self._items_at = parse(bulk.items)
        self._max_body = min(MAX_BODY, route.max_body or MAX_BODY)
        self._gatherer = gatherer
        self._decide_items = decide_items
        self._observer = observer

    async def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> None:
        """Answer every item of the body."""
        mark_degraded_permit(permit, exchange)
        items = self._items(await body_of(exchange, deadline, self._max_body))
        params = [{self._bulk.param: item} for item in items]
        # Decided for all items at once, before the answer begins.
        verdicts = await self._decide_items(
            permit, params, deadline=a_moment_before(deadline), record=exchange.record, span=exchange.span
        )
        deadline.stop()
        failures: Counter[str] = Counter()
        jobs = (
            self._counted(failures, {**permit.request.params, **item}, verdict, exchange)
            for item, verdict in zip(params, verdicts, strict=True)
        )
        answer = self._lines if _wants_lines(permit.request) else self._document
        await answer(exchange, jobs)
        self._tell(exchange, failures)

    def _items(self, body: bytes) -> list[str]:
        """The items of the body. Raises `bad_request`."""
        try:
            items = look_up(read_callers(body), self._items_at)
        except ValueError:
            raise GatewayError("bad_request", "The body is not a JSON document.") from None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise GatewayError("bad_request", f"The body has no list of texts at {self._bulk.items or 'its top'}.")
        if len(items) > self._bulk.max_items:
            raise GatewayError("bad_request", f"More than {self._bulk.max_items} items.")
        return items

    async def _result(
        self, params: Mapping[str, str], verdict: Permit | Fallback | GatewayError, exchange: Exchange
    ) -> _Result:
        """What stands for one item."""
        echo = self._gatherer.document.echo(params)
        if isinstance(verdict, GatewayError):
            return {**echo, "denied": True} if verdict.code == "iam_denied" else _failed(echo, verdict)
        if isinstance(verdict, Fallback):
            return _failed(echo, GatewayError(verdict.code))
        # The request's deadline covered the decisions. Every item has its own deadline, as long as the route's.
        deadline = Deadline.after(self._route.deadline_s)
        try:
            said = await self._gatherer.gather(verdict, deadline=deadline, span=exchange.span, record=exchange.record)
        except GatewayError as unusable:
            return _failed(echo, unusable)
        shortfall = self._gatherer.document.shortfall(said)
        if shortfall is not None:
            failures = {name: failure.document for name, failure in said.failures.items()}
            return {**_failed(echo, shortfall), "systems_failed": list(failures), "failures": failures}
        document = self._gatherer.document.compose(params, said)
        return {**document, "degraded": verdict.degraded} if verdict.degraded else document

    async def _counted(
        self,
        failures: Counter[str],
        params: Mapping[str, str],
        verdict: Permit | Fallback | GatewayError,
        exchange: Exchange,
    ) -> _Result:
        """What stands for one item; its failures are counted."""
        result = await self._result(params, verdict, exchange)
        named = {"item": result["error"]} if "error" in result else {}
        failures.update(f"{name}: {why['code']}" for name, why in {**named, **result.get("failures", {})}.items())
        return result

    def _tell(self, exchange: Exchange, failures: Counter[str]) -> None:
        """Log and count that not everything could be answered: once, whatever the number of items."""
        if not failures:
            return
        exchange.record.degraded = PARTIAL
        exchange.record.reason = ", ".join(f"{why} x{count}" for why, count in failures.most_common(_TOLD))
        exchange.span.event("degraded", mode=PARTIAL)
        self._observer.degraded(self._route.id, PARTIAL)

    async def _lines(self, exchange: Exchange, jobs: Iterator[Coroutine[Any, Any, _Result]]) -> None:
        async def emit(result: _Result) -> None:
            await exchange.write(write(result) + b"\n")

        await exchange.start(200, _headers(exchange.request, _LINES))
        await self._each(jobs, emit, in_order=False)
        await exchange.finish()

    async def _document(self, exchange: Exchange, jobs: Iterator[Coroutine[Any, Any, _Result]]) -> None:
        summary: Counter[str] = Counter()

        async def emit(result: _Result) -> None:
            comma = b"," if summary["total"] else b""
            summary.update(["total", _kind(result)])
            summary["discrepancies"] += result.get("discrepancy_count", 0)
            await exchange.write(comma + write(result))

        await exchange.start(200, _headers(exchange.request, b"application/json"))
        await exchange.write(b'{"results":[')
        await self._each(jobs, emit, in_order=True)
        counts = {name: summary[name] for name in ("total", *_KINDS, "discrepancies")}
        await exchange.finish(b'],"summary":' + write(counts) + b"}")

    async def _each(self, jobs: Iterator[Coroutine[Any, Any, _Result]], emit: _Emit, *, in_order: bool) -> None:
        """Do the jobs, a few at a time; none is begun while `emit` waits for the caller to read."""
        running: deque[asyncio.Task[_Result]] = deque()
        try:
            while True:
                # So memory stays bounded however many items there are.
                while len(running) < self._bulk.concurrency and (job := next(jobs, None)) is not None:
                    running.append(asyncio.create_task(job))
                if not running:
                    return
                awaited = [running[0]] if in_order else running
                done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in running if task in done]:
                    running.remove(task)
                    await emit(task.result())
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


def _failed(echo: _Result, error: GatewayError) -> _Result:
    return {**echo, "error": failure_of(error).document}


def _kind(result: _Result) -> str:
    if "denied" in result:
        return "denied"
    if "error" in result:
        return "failed"
    return "complete" if result["complete"] else "partial"


def _wants_lines(request: Request) -> bool:
    """Whether the caller names NDJSON as acceptable; a wildcard means the JSON document."""
    return named_quality(request.values(b"accept"), _LINES) > 0


def _headers(request: Request, content_type: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", content_type),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request.request_id.encode("ascii")),
    ]
