"""The bytes of a connection as messages, one at a time: head, body, end.

Deliberately absent: time, answers, and what follows a message.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

import httptools

from gateway.errors import GatewayError
from gateway.model.request import Headers
from gateway.model.settings import ServerSettings
from gateway.server.head import Head, read_head
from gateway.server.websocket import check_handshake

# Where a message can end: a head at its empty line, a chunked body after its last chunk (RFC 9112 sections 2.1, 7.1).
#
# What is fed to the parser never reaches over that. The parser remains the judge of what is well-formed; here is
# refused only what would make the two see different ends. The cost is linear: no byte is looked at twice, content not
# at all.

_END: Final = b"\r\n\r\n"
MAX_CHUNKS: Final = 256
"""How many chunks one step may reach over."""
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t;][^\r\n]*)?\r\n")
_LONGEST_LINE: Final = 4096


class Boundary:
    """Finds CRLFCRLF in a stream of parts, also where it is split between them."""

    __slots__ = ("_tail",)

    def __init__(self, before: bytes = b"") -> None:
        """`before`: what came before, of which the end may begin with."""
        self._tail = before

    def after(self, data: bytes, at: int) -> int:
        """The index after the first CRLFCRLF of `data[at:]`, or `len(data)` if there is none."""
        tail = self._tail
        if tail:
            found = (tail + data[at : at + 3]).find(_END)
            if found >= 0:
                self._tail = b""
                return at + found + 4 - len(tail)
        found = data.find(_END, at)
        if found >= 0:
            self._tail = b""
            return found + 4
        self._tail = (tail + data[max(at, len(data) - 3) :])[-3:]
        return len(data)


class ChunkBoundary:
    """Follows a chunked body from size line to size line."""

    __slots__ = ("_content_left", "_line", "_trailer")

    def __init__(self) -> None:
        self._content_left = 0
        self._line = b""
        self._trailer: Boundary | None = None

    def after(self, data: bytes, at: int) -> int:
        """The index after at most MAX_CHUNKS chunks of `data[at:]`, or after the body where that ends.

        Raises `bad_request` for a size line that is none.
        """
        if self._trailer is None:
            at = self._past_begun(data, at)
        if self._trailer is None and at < len(data):
            at = self._past_whole(data, at)
        return at if self._trailer is None or at == len(data) else self._trailer.after(data, at)

    def _past_begun(self, data: bytes, at: int) -> int:
        """Over what the data before has begun: content, or a size line with its content."""
        if self._line:
            at = self._past_size_line(data, at)
        begun = min(self._content_left, len(data) - at)
        self._content_left -= begun
        return at + begun

    def _past_whole(self, data: bytes, at: int) -> int:
        """Over chunks that begin here; there may be many, so nothing is cut out."""
        match, size = _SIZE_LINE.match, len(data)
        # Each chunk costs like a request's field, however small it is.
        for _ in range(MAX_CHUNKS):
            if at >= size:
                break
            line = match(data, at)
            if line is None:
                return self._past_size_line(data, at)
            content = int(line[1], 16)
            if not content:
                return self._last(line.end())
            at = line.end() + content + 2  # its line break
        self._content_left = max(0, at - size)
        return min(at, size)

    def _past_size_line(self, data: bytes, at: int) -> int:
        """Over a size line that comes in parts, or is none."""
        end = data.find(b"\n", at) + 1
        self._line += data[at : end or len(data)]
        if len(self._line) > _LONGEST_LINE:
            raise GatewayError("headers_too_large")
        if not end:
            return len(data)
        line, self._line = _SIZE_LINE.fullmatch(self._line), b""
        if line is None:
            raise GatewayError("bad_request", reason="a chunk's size line")
        content = int(line[1], 16)
        if not content:
            return self._last(end)
        self._content_left = content + 2
        return end

    def _last(self, end: int) -> int:
        self._trailer = Boundary(b"\r\n")
        return end


HEAD, LENGTH, CHUNKED, COMPLETE, SOCKET = range(5)
_EMPTY_LINE: Final = b"\r\n"
_MAX_EMPTY: Final = 64
"""Bytes of empty lines before a request line: clients that send any send one."""
_AROUND_A_BYTE: Final = 16  # what a chunk of one byte may have around it, itself included


class Sink(Protocol):
    """Who hears of a message as it arrives."""

    def head_arrived(self, head: Head, headers: Headers, *, keep_alive: bool) -> None:
        """A head was accepted."""

    def part_arrived(self, data: bytes) -> None:
        """A part of its body."""

    def end_arrived(self) -> None:
        """The end of it."""


class MessageReader:
    """Reads one connection. `state` says what comes next; `raw` is the present head, as far as it has arrived.

    COMPLETE: nothing is read until `next_message`. SOCKET: `socket` is an accepted WebSocket handshake, and what
    follows is not HTTP.
    """

    __slots__ = ("_boundary", "_chunks", "_empty", "_headers", "_ignored", "_left", "_overhead", "_parser", "_scheme",
                 "_settings", "_sink", "raw", "socket", "state")  # fmt: skip

    def __init__(self, sink: Sink, scheme: str, settings: ServerSettings) -> None:
        self._sink = sink
        self._scheme = scheme
        self._settings = settings
        self._parser = httptools.HttpRequestParser(self)
        self._boundary = Boundary()
        self._chunks = ChunkBoundary()
        self._empty = 0
        self._headers: Headers = []
        self._left = 0
        self._overhead = 0
        self._ignored: Head | None = None
        self.raw = b""
        self.state = HEAD
        self.socket: tuple[Head, Headers] | None = None

    def next_message(self, settings: ServerSettings) -> None:
        """The message was answered: the next one begins."""
        self._settings = settings
        self.state, self.raw, self._headers, self._empty = HEAD, b"", [], 0

    def read(self, data: bytes, at: int) -> int:
        """Read `data[at:]` up to the end of the present message, or MAX_CHUNKS chunks of it, and say how far that is.

        Raises GatewayError for what makes no sense; then nothing more can be read.
        """
        size = len(data)
        # Empty lines before a request line are ignored (RFC 9112 section 2.2).
        if self.state == HEAD and not self.raw and data[at] in _EMPTY_LINE:
            at = self._past_empty_lines(data, at)
        while at < size and self.state < COMPLETE:
            chunked = self.state == CHUNKED
            # Never over the end of a message, so what a client pipelines stays bytes.
            end = self._reach(data, at)
            self._parse(data[at:end])
            at = end
            if chunked:
                break
        return at

    def _past_empty_lines(self, data: bytes, at: int) -> int:
        rest = data[at : at + _MAX_EMPTY + 1].lstrip(_EMPTY_LINE)
        skipped = min(len(data) - at, _MAX_EMPTY + 1) - len(rest)
        self._empty += skipped
        if self._empty > _MAX_EMPTY:
            raise GatewayError("bad_request", "There are too many empty lines.")
        return at + skipped

    def _reach(self, data: bytes, at: int) -> int:
        """How far the present message may reach into the data."""
        if self.state == HEAD:
            return self._boundary.after(data, at)
        if self.state == CHUNKED:
            return self._chunks.after(data, at)
        end = min(len(data), at + self._left)
        self._left -= end - at
        return end

    def _parse(self, piece: bytes) -> None:
        if self.state == HEAD:
            self.raw = self.raw + piece if self.raw else piece
            if len(self.raw) > self._settings.max_header_bytes:
                raise self._too_large()
        chunked = self.state == CHUNKED
        if chunked:
            self._overhead += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._past_upgrade()
        except httptools.HttpParserError as error:
            raise _refusal_of(error) from None
        if chunked and self._overhead > self._settings.max_header_bytes:
            raise GatewayError("headers_too_large")

    def _too_large(self) -> GatewayError:
        long_line = len(self.raw.partition(b"\r\n")[0]) > self._settings.max_uri
        return GatewayError("uri_too_long" if long_line else "headers_too_large")

    def _past_upgrade(self) -> None:
        head, self._ignored = self._ignored, None
        if head is None:
            return
        if head.body == 0:
            self.on_message_complete()
            return
        # The upgrade is ignored (RFC 9110 section 7.8), but llhttp takes it for the end of HTTP: feed the framing anew.
        framing = b"transfer-encoding: chunked" if head.body is None else b"content-length: %d" % head.body
        self._ignored = head
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        self._ignored = None

    # The parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer field, which is discarded with this list."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Accept the head, or raise its refusal (the parser passes it on as the context of its own error)."""
        if self._ignored is not None:
            return
        if self.state != HEAD:
            raise GatewayError("bad_request")
        headers, self._headers = self._headers, []
        if b" \r\n" in self.raw or b"\t\r\n" in self.raw:
            headers = [(name, value.rstrip(b" \t")) for name, value in headers]
        head = read_head(self.raw, headers, self._scheme, self._settings)
        if self._parser.should_upgrade():
            if head.upgrade == b"websocket":
                check_handshake(head, headers)
                self.state, self.socket = SOCKET, (head, headers)
                return
            self._ignored = head
        if head.body is None:
            self.state, self._chunks = CHUNKED, ChunkBoundary()
        else:
            self.state = LENGTH
        self._left, self._overhead = head.body or 0, 0
        self._sink.head_arrived(head, headers, keep_alive=head.version == "1.1" and self._parser.should_keep_alive())

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        # What is around the content is limited, beyond so much for each byte of it.
        self._overhead = max(0, self._overhead - _AROUND_A_BYTE * len(data))
        self._sink.part_arrived(data)

    def on_message_complete(self) -> None:
        """The end of the message, except where llhttp takes an upgrade for it."""
        if self._ignored is None and self.state != SOCKET:
            self.state = COMPLETE
            self._sink.end_arrived()


def _refusal_of(error: httptools.HttpParserError) -> GatewayError:
    """What a callback of ours raised, or else what the parser says."""
    cause = error.__context__
    return cause if isinstance(cause, GatewayError) else GatewayError("bad_request", reason=str(error))
