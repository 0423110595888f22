"""Bytes of an upstream into a Reply: llhttp in its strict mode, and what it lets through but we do not.

1xx are swallowed, trailers dropped.
"""

from __future__ import annotations

from typing import Final

import httptools

from gateway.upstream.reply import Reply

# How much of what came is parsed before the work is looked at: the work that bytes make differs by a factor of 1,000.
#
# A turn of the event loop parses at most TURN_BYTES and about TURN_PARTS fields or chunks of one connection.

TURN_BYTES: Final = 64 * 1024
TURN_PARTS: Final = 256
FIRST_STRIDE: Final = 1536
"""As many bytes hold at most TURN_PARTS chunks of one byte."""
_SPARSE: Final = 16


def fitted(stride: int, parts: int) -> int:
    """The next number of bytes, when the last `stride` of them held so many parts."""
    if parts <= _SPARSE:
        return min(TURN_BYTES, 4 * stride)
    if parts > TURN_PARTS // 2:
        return max(FIRST_STRIDE // 4, stride // 8)
    return stride


MAX_HEAD: Final = 64 * 1024
"""Bytes of one response head; also of chunk framing or trailers between two parts of a body."""
MAX_HEADERS: Final = 256
MAX_INTERIM: Final = 10_000
"""1xx responses before the final one; time ends them earlier, this only bounds the work."""

_INTERIM: Final = range(100, 200)
_SWITCHING: Final = 101
_FINAL: Final = range(200, 600)
_BODILESS: Final = frozenset({204, 304})
_HTTP_1_0: Final = b"HTTP/1.0 "
_HTTP_1_1: Final = b"HTTP/1.1 "


class Violation(Exception):
    """What came is not a valid response; the text says why."""


class ResponseParser:
    """Feeds one connection's bytes to the reply that is due. `start` before each response."""

    __slots__ = (
        "_feed",
        "_headers",
        "_interim",
        "_interims",
        "_llhttp",
        "_prefix",
        "_reply",
        "_unbodied",
        "bare",
        "complete",
        "head_done",
        "keep_alive",
        "surplus",
        "until_close",
    )

    def __init__(self) -> None:
        self._llhttp = httptools.HttpResponseParser(self)
        self._feed = self._llhttp.feed_data
        self._prefix = b""
        self._interim = False
        self.head_done = False
        self.complete = True
        self.surplus = False
        self.bare = False

    @property
    def received(self) -> bool:
        """Whether any byte of the response has come."""
        return bool(self._prefix)

    @property
    def parts(self) -> int:
        """How many fields, parts of a body and 1xx there were: what the work of parsing grows with."""
        return len(self._headers) + self._reply.waiting_parts + self._interims

    @property
    def ends_here(self) -> bool:
        """Whether the end of the connection would be the end of the body, which has no other."""
        return self.head_done and self.until_close

    def start(self, reply: Reply, *, bare: bool) -> None:
        """The next bytes belong to `reply`; `bare`: it answers HEAD, so it has no body whatever it says."""
        self._reply = reply
        self._headers = reply.headers
        self.bare = bare
        self._unbodied = 0
        self._interims = 0
        self._prefix = b""
        self.head_done = False
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Parse what came. Raises Violation; never for bytes after a complete response, see `surplus`."""
        if self._prefix is not _HTTP_1_1:
            if not self._prefix and data.startswith(_HTTP_1_1):
                self._prefix = _HTTP_1_1
            else:
                self._check_prefix(data)
        # Bytes since the last part of a body. Also bounds what llhttp takes without telling: half a header field.
        self._unbodied += len(data)
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                cause = error.__context__
                raise Violation(str(cause if isinstance(cause, Violation) else error)) from None
            # The response stands, but the connection must never be used again (response-queue poisoning).
            self.surplus = True
            return
        if not self.head_done and len(self._headers) > MAX_HEADERS:
            raise Violation(f"more than {MAX_HEADERS} header fields")
        if self._unbodied > MAX_HEAD and not self.complete:
            raise Violation(f"more than {MAX_HEAD} bytes of head or framing")

    def _check_prefix(self, data: bytes) -> None:
        # llhttp also takes RTSP/, ICE/, HTTP/0.9 and HTTP/2.0, and empty lines before the status line.
        prefix = self._prefix + data[: len(_HTTP_1_1) - len(self._prefix)]
        if _HTTP_1_1.startswith(prefix):
            self._prefix = _HTTP_1_1 if prefix == _HTTP_1_1 else prefix
        elif _HTTP_1_0.startswith(prefix):
            self._prefix = prefix
        else:
            raise Violation("not an HTTP/1.x response")

    # Callbacks of llhttp, in the order in which they come. What they raise arrives in `feed` as the error's context.

    def on_message_begin(self) -> None:
        """The first byte of a response."""
        if self.complete:
            raise Violation("surplus")

    def on_status(self, status: bytes) -> None:
        """A part of the reason phrase."""
        self._reply.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole field, of the head or of the trailers."""
        if not self.head_done:
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The end of a head."""
        reply = self._reply
        status = self._llhttp.get_status_code()
        # Only a large delivery can hold a large head, so most heads need not be measured.
        if self._unbodied > MAX_HEAD or self._interims or len(self._headers) > MAX_HEADERS:
            self._check_size(reply)
        if status not in _FINAL:
            self._on_interim(status)
            return
        framed = self._read_framing(reply)
        reply.status = status
        self.head_done = True
        self._unbodied = 0
        self.until_close = not framed
        self.keep_alive = self._llhttp.should_keep_alive()
        # HEAD, 204 and 304 have no body.
        if self.bare or status in _BODILESS:
            self._expect_no_body(reply, framed=framed)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if self.complete:
            raise Violation("surplus")
        self._reply.add(body)
        self._unbodied = 0

    def on_message_complete(self) -> None:
        """The end of a response that says where it ends."""
        if self._interim:
            self._interim = False
        else:
            self.complete = True

    def _check_size(self, reply: Reply) -> None:
        if len(reply.headers) > MAX_HEADERS:
            raise Violation(f"more than {MAX_HEADERS} header fields")
        size = sum(len(name) + len(value) for name, value in reply.headers) + len(reply.reason)
        if size > MAX_HEAD:
            raise Violation(f"more than {MAX_HEAD} bytes of head")
        if self._llhttp.get_http_version() not in ("1.0", "1.1"):  # behind a 1xx, where no prefix was looked at
            raise Violation("not an HTTP/1.x response")

    def _expect_no_body(self, reply: Reply, *, framed: bool) -> None:
        # A body that such a response announces may still come, and must not become the next one's answer.
        self.until_close = False
        if self.bare:
            self.complete = True
            self.keep_alive = False
        elif framed and reply.content_length != 0:
            self.keep_alive = False

    def _on_interim(self, status: int) -> None:
        reply = self._reply
        self._interims += 1
        if status == _SWITCHING or status not in _INTERIM or self._interims > MAX_INTERIM:
            raise Violation(f"status {status} was not asked for")
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in reply.headers):
            raise Violation("1xx with a body")
        reply.headers.clear()
        reply.reason = b""
        self._unbodied = 0
        self._interim = True

    def _read_framing(self, reply: Reply) -> bool:
        """Whether the response says where its body ends; sets the reply's content length."""
        chunked = False
        for name, value in reply.headers:
            if name == b"content-length":
                reply.content_length = int(value)  # llhttp checked: digits, once, not with a transfer coding
            elif name == b"transfer-encoding":
                if chunked or value.lower() != b"chunked" or self._prefix != _HTTP_1_1:
                    raise Violation("unknown transfer coding")
                chunked = True
        return chunked or reply.content_length is not None
