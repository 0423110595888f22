"""Puts the observers together: what is logged, counted and traced, by `server.access_log` and the `OTEL_*` variables.

Rules: nothing here makes a request wait: lines, spans and metrics leave from threads of their own, over bounded queues;
`aclose` flushes them for a bounded time. The SDK of OpenTelemetry is imported only when something is to be exported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import IO, Any, Final

from gateway.errors import GatewayError
from gateway.model.request import AccessRecord
from gateway.model.settings import ServerSettings
from gateway.telemetry.access_log import AccessLog, json_line, json_summary, text_line, text_summary
from gateway.telemetry.diagnostics import TEXT, Diagnostics, formatter, install
from gateway.telemetry.fanout import Fanout
from gateway.telemetry.instruments import DROPPED
from gateway.telemetry.metrics import MetricsObserver
from gateway.telemetry.observer import NO_SPAN, Observer
from gateway.telemetry.otlp.choice import NOT_INSTALLED, Choice, choose
from gateway.telemetry.spans import SpansObserver
from gateway.telemetry.store import Readings, Snapshot, Store, merge, process_readings
from gateway.telemetry.tracing import PropagatingObserver, new_span, new_trace, path_of, sampler_of
from gateway.telemetry.writer import LineWriter

_log = logging.getLogger("gateway.telemetry")

Closing = list[Callable[[], None]]

SIGNALS: Final = ("logs", "traces", "metrics", "decisions")
_FLUSH_S: Final = 5.0
_LINES_FLUSH_S: Final = 2.0
_LAST_WORDS_S: Final = 0.5


def exposition(snapshots: Iterable[Snapshot], accept: str = "") -> tuple[bytes, str]:
    """The metrics of several workers, added up, and their media type: Prometheus text, or OpenMetrics if asked for."""
    from gateway.telemetry import prometheus  # only a serving process needs the library

    return prometheus.exposition(merge(snapshots), accept)


class Telemetry:
    """The observer of a process and what reads its values."""

    def __init__(self, observer: Observer, store: Store, exporting: Closing, writing: Closing) -> None:
        """`exporting` and `writing` are what to call at the end, in this order."""
        self.observer = observer
        self._store = store
        self._exporting = exporting
        self._writing = writing

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics and their media type, by what an `Accept` field asks for."""
        return exposition([self._store.snapshot()], accept)

    def read(self, source: Callable[[], Readings]) -> None:
        """Show what `source` tells with the metrics. It is called in any thread, and must not raise."""
        self._store.read(source)

    def snapshot(self) -> Snapshot:
        """The values of this worker, as JSON data for another one."""
        return self._store.snapshot()

    def refused(self, error: GatewayError, peer: str, request_id: str, target: bytes) -> None:
        """The listener refused bytes that never became a request: counted and logged like one, without a route."""
        record = AccessRecord(
            started_s=time.monotonic(),
            request_id=request_id,
            trace_id=new_trace(),
            span_id=new_span(),
            path=path_of(target),
            status=error.kind.status,
            code=error.code,
            client=peer,
            reason=error.reason or error.detail,
        )
        self.observer.request_ended(record, NO_SPAN)

    def write_lines(self) -> None:
        """Write what was logged, for a process that ends now; at most for a moment."""
        writing = [threading.Thread(target=close, daemon=True) for close in self._writing]
        for thread in writing:
            thread.start()
        for thread in writing:
            thread.join(_LAST_WORDS_S)

    async def aclose(self) -> None:
        """Flush and end, in a bounded time, also with a collector that hangs."""
        await asyncio.gather(*(_in_time(close, _FLUSH_S) for close in self._exporting))
        await asyncio.gather(*(_in_time(close, _LINES_FLUSH_S) for close in self._writing))


def build_observer(
    settings: ServerSettings,
    environ: Mapping[str, str],
    *,
    also: Sequence[Observer] = (),
    stdout: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
) -> Telemetry:
    """The telemetry of this process. `environ` must be the process's own for exporters to see all of it.

    `also`: who else is told. `stdout`, `stderr`: other unbuffered binary files than the process's own.
    """
    choice, store = choose(environ), Store()
    dropped = _counter_of_drops(store)
    lines = LineWriter(stdout or _raw(sys.stdout), dropped("logs"))
    notes = LineWriter(stderr or _raw(sys.stderr), dropped("logs"))
    undo = install(notes.write, settings.log or TEXT)
    spans, exporting = _exporting(choice, store, environ, dropped)
    requests = _access_log(settings, lines)
    observers = [spans, Diagnostics(), requests, *also]
    if choice.collect:
        observers.append(MetricsObserver(store))
        store.read(process_readings)

    def close_lines() -> None:
        requests.close()
        lines.close(_LINES_FLUSH_S)

    def close_notes() -> None:
        undo()
        notes.close(_LINES_FLUSH_S)

    return Telemetry(Fanout(observers), store, exporting, [close_lines, close_notes])


def log_to_stderr(settings: ServerSettings) -> Callable[[], None]:
    """Python's logging on stderr, for a process without the rest of telemetry; gives back what flushes and ends it."""
    notes = LineWriter(_raw(sys.stderr), lambda _: None)
    undo = install(notes.write, settings.log or TEXT)

    def close() -> None:
        undo()
        notes.close(_LINES_FLUSH_S)

    return close


def line_of(settings: ServerSettings, level: int, message: str) -> str:
    """One line as the log would write it, for what is said before or after there is a log."""
    return formatter(settings.log or TEXT).format(logging.LogRecord("gateway", level, "", 0, message, (), None))


def _raw(stream: Any) -> IO[bytes]:
    """The stream's file without Python's buffer, whose lock a thread that hangs would hold at exit."""
    return open(stream.fileno(), "wb", buffering=0, closefd=False)


def _access_log(settings: ServerSettings, lines: LineWriter) -> AccessLog:
    mode = settings.access_log or ("text" if sys.stdout.isatty() else "json")
    as_text = mode == "text" or (mode == "off" and sys.stdout.isatty())
    form, summary = (text_line, text_summary) if as_text else (json_line, json_summary)
    return AccessLog(lines.write, form, everything=mode != "off", summary=summary)


def _counter_of_drops(store: Store) -> Callable[[str], Callable[[int], None]]:
    values = store.values(DROPPED)
    for signal in SIGNALS:  # a counter that begins at one hides its first event from `increase`
        values.add((signal,), 0)
    lock = threading.Lock()  # spans are dropped by the event loop and by the exporter's thread

    def drop(signal: str, count: int) -> None:
        with lock:
            values.add((signal,), count)

    return lambda signal: partial(drop, signal)


def _exporting(
    choice: Choice,
    store: Store,
    environ: Mapping[str, str],
    dropped: Callable[[str], Callable[[int], None]],
) -> tuple[Observer, Closing]:
    """The observer that makes spans, or only trace ids; and what ends the exporting."""
    if choice.traces is None and choice.metrics is None:
        return PropagatingObserver(), []
    try:
        from gateway.telemetry.otlp import exporters  # costs 0.2 s, only where it is used
    except ModuleNotFoundError:
        _log.error("[telemetry] %s", NOT_INSTALLED)
        return PropagatingObserver(), []

    spans: Observer = PropagatingObserver()
    closing: Closing = []
    resource = exporters.resource()
    try:
        if choice.traces is not None:
            pipe = exporters.TracePipe(exporters.span_exporter(choice.traces), resource, dropped("traces"))
            spans = SpansObserver(pipe.take, sampler_of(environ))
            closing.append(pipe.shutdown)
        if choice.metrics is not None:
            exporter, interval_s = exporters.metric_exporter(choice.metrics), exporters.interval_s(environ)
            closing.append(exporters.MetricPump(exporter, store, resource, interval_s, dropped("metrics")).shutdown)
    except exporters.ExporterMissing as error:
        _log.error("[telemetry] %s", error)
    return spans, closing


async def _in_time(close: Callable[[], None], seconds: float) -> None:
    """Run `close` in a thread that nobody has to wait for when it hangs."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            close()
        finally:
            # The loop is gone when this took too long.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="gateway-flush", daemon=True).start()
    try:
        await asyncio.wait_for(done.wait(), seconds)
    except TimeoutError:
        _log.warning("[telemetry] Not everything could be flushed within %g s", seconds)
