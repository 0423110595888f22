"""`/status/stream`: the status once a second as server-sent events (HTML Living Standard 9.2), to a few watchers.

`status` is the whole document, and the first event; `changes` has only what is different since the event before: of
`routes` the rows that changed, of `breakers` and `upstreams` the entries, all else whole. Who missed one, and everybody
after a change of the configuration, gets a whole one again.
Rules: one producer works for all watchers, and only while there are any; who takes nothing for ten seconds is let go;
no more than 32 at a time; when the process ends, every stream is ended with an event that says so.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.admin.guard import problem

# What is different between two status documents, so that a page with thousands of routes is sent what moved.

Document = dict[str, Any]

_BY_NAME: Final = ("breakers", "upstreams")
_BY_ROW: Final = "routes"


def changes(before: Document | None, after: Document) -> Document | None:
    """Of `routes` the rows that changed, of mappings by name their entries, all else whole.

    None where only the whole document says it: there was none, or another configuration has other routes.
    """
    if before is None or before.keys() != after.keys() or _names(before) != _names(after):
        return None
    changed = {
        name: value
        for name, value in after.items()
        if name != _BY_ROW and name not in _BY_NAME and before[name] != value
    }
    for name in _BY_NAME:
        if name in after:
            changed[name] = {key: value for key, value in after[name].items() if before[name][key] != value}
    if _BY_ROW in after:
        pairs = zip(before[_BY_ROW], after[_BY_ROW], strict=True)
        changed[_BY_ROW] = [row for old, row in pairs if old != row]
    return changed


def _names(document: Document) -> list[list[str]]:
    rows = [str(row["id"]) for row in document.get(_BY_ROW, ())]
    return [rows, *(list(document.get(name, ())) for name in _BY_NAME)]


# JSON of documents that may be large, made without holding up whoever serves requests beside it.
#
# The encoder of the interpreter does not let go while it runs: a whole document of megabytes would stop the event
# loop, also from a thread. So it is encoded piece by piece, in a thread. Giving back its memory takes as long: what
# nobody else holds is emptied there, too.

_DEPTH: Final = 2
"""`{"routes": [{…}, {…}]}`: a row is a piece."""
_SLICE: Final = 50


async def shown(document: Any, headers: dict[str, str] | None = None, *, spent: bool = False) -> Response:
    """The document as an answer. `spent`: nobody needs it afterwards."""
    return Response(await encoded(document, spent=spent), headers=headers, media_type="application/json")


async def encoded(document: Any, *, spent: bool = False) -> bytes:
    """The document as JSON in UTF-8."""
    return await asyncio.to_thread(_encode, document, spent)


def _encode(document: Any, spent: bool) -> bytes:  # of a call in a thread
    text = "".join(_pieces(document, _DEPTH)).encode()
    if spent and isinstance(document, dict):
        for member in document.values():
            while isinstance(member, list) and member:
                del member[-_SLICE:]
    return text


def _pieces(value: Any, depth: int) -> Iterator[str]:
    if depth and isinstance(value, dict):
        yield "{"
        for number, (name, member) in enumerate(value.items()):
            yield f"{',' if number else ''}{_text(str(name))}:"
            yield from _pieces(member, depth - 1)
        yield "}"
    elif depth and isinstance(value, list | tuple):
        yield "["
        for number, item in enumerate(value):
            if number:
                yield ","
            yield from _pieces(item, depth - 1)
        yield "]"
    else:
        yield _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


_LOG: Final = logging.getLogger("gateway")
MOST_WATCHERS: Final = 32
INTERVAL_S: Final = 1.0
PATIENCE_S: Final = 10.0
RETRY_MS: Final = 2000
_END: Final = b"event: end\ndata: {}\n\n"


class Feed:
    """The status for whoever watches. `source` makes it; one event loop only."""

    def __init__(self, source: Callable[[], Awaitable[dict[str, Any]]], *, interval_s: float = INTERVAL_S) -> None:
        self._source = source
        self._interval_s = interval_s
        self._watchers = 0
        self._producer: asyncio.Task[None] | None = None
        self._version = 0
        self._document: dict[str, Any] | None = None
        self._change: bytes | None = None
        self._whole: tuple[int, bytes] = (0, b"")
        self._tick = asyncio.Event()
        self._closed = False

    def enter(self) -> bool:
        """Take a place among the watchers, if there is one. Each True is followed by one `leave`."""
        if self._closed or self._watchers >= MOST_WATCHERS:
            return False
        self._watchers += 1
        if self._producer is None:
            self._producer = asyncio.get_running_loop().create_task(self._produce())
        return True

    def leave(self) -> None:
        """Give it back. With the last watcher the work ends."""
        self._watchers -= 1
        if not self._watchers and self._producer is not None:
            self._producer.cancel()
            self._producer, self._document, self._change, self._whole = None, None, None, (0, b"")

    def close(self) -> None:
        """End every stream."""
        self._closed = True
        self._turn()

    async def events(self) -> AsyncIterator[bytes]:
        """What to send, from now to the end. Who is slow misses some."""
        seen = 0
        while not self._closed:
            tick = self._tick
            if self._document is not None and self._version != seen:
                follows = seen and seen == self._version - 1
                if follows and self._change is not None:
                    seen, event = self._version, self._change
                else:
                    seen, event = await self._all_of(self._version, self._document)
                yield event
            if tick is self._tick:
                await tick.wait()
        yield _END

    async def _all_of(self, version: int, document: dict[str, Any]) -> tuple[int, bytes]:
        """The whole document as an event; made once for all who need it."""
        if self._whole[0] != version:
            self._whole = (version, b"event: status\ndata: %s\n\n" % await encoded(document))
        return self._whole

    async def _produce(self) -> None:
        while True:
            try:
                document = await self._source()
                changed = await asyncio.to_thread(changes, self._document, document)
                change = None if changed is None else b"event: changes\ndata: %s\n\n" % await encoded(changed)
                self._version, self._document, self._change = self._version + 1, document, change
            except Exception:  # noqa: BLE001 - a bug in what is shown must not end the showing
                _LOG.exception("the status could not be made")
            self._turn()
            await asyncio.sleep(self._interval_s)

    def _turn(self) -> None:
        """Wake all who wait; whoever waits from now on waits for the next time."""
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()


class FeedResponse(Response):
    """One watcher's stream."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the watcher leaves, takes nothing, or the process ends."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(head)
            await send({"type": "http.response.body"})
        elif not self._feed.enter():
            await problem(503, "Too many watch already.", {"retry-after": "5"})(scope, receive, send)
        else:
            gone = asyncio.get_running_loop().create_task(_until_gone(receive))
            try:
                with suppress(TimeoutError):
                    await self._stream(gone, head, send)
            finally:
                self._feed.leave()
                gone.cancel()

    async def _stream(self, gone: asyncio.Task[None], head: dict[str, Any], send: Send) -> None:
        await send(head)
        await _in_time(send, b"retry: %d\n\n" % RETRY_MS, more=True)
        async for event in self._feed.events():
            if gone.done():
                return
            await _in_time(send, event, more=True)
        await _in_time(send, b"", more=False)


async def _in_time(send: Send, body: bytes, *, more: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
