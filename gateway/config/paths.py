"""Paths and methods: what a target is matched by. ValueError says what is wrong with a path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.config.compile_context import CompileContext
from gateway.config.problems import Mark, near, quoted
from gateway.model.route import Segment

# Path templates: `/inventory/switches/{switch}`, `/inventory/*`. ValueError says what is wrong.
#
# Rules: segments are literal text as it reads once percent-decoded, `{name}` for exactly one segment, or a closing
# `*`; one trailing slash means the same as none; what the listener refuses in a target can't be matched and is
# refused here.

_PARAM: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]{0,63})\}\Z")
_MAX_SEGMENTS: Final = 64


def parse_path(text: str) -> tuple[Segment, ...]:
    """The segments of a path template."""
    if not text.startswith("/"):
        raise ValueError("a path starts with /")
    if found := re.search(r"[?#%\\\x00-\x1f\x7f]", text):
        raise ValueError(_REASONS.get(found.group(), "control characters are not allowed in a path"))
    parts = text[1:].removesuffix("/").split("/") if text != "/" else []
    if len(parts) > _MAX_SEGMENTS:
        raise ValueError(f"a path has at most {_MAX_SEGMENTS} segments")
    segments = tuple(_segment(part, last=index == len(parts) - 1) for index, part in enumerate(parts))
    names = params(segments)
    if len(set(names)) != len(names):
        raise ValueError("a path parameter is there twice")
    return segments


_REASONS: Final = {
    "?": "a path has no query; placeholders in checks read it: {query.NAME}",
    "#": "a path has no fragment",
    "%": "write a path as it reads decoded, without percent-encoding",
    "\\": "a backslash in a target is refused, so it can't be matched",
}


def _segment(part: str, *, last: bool) -> Segment:
    if part in ("", ".", ".."):
        raise ValueError("empty and dot segments are refused in a target, so they can't be matched")
    if found := _PARAM.match(part):
        return Segment(param=found.group(1))
    if part == "*" and last:
        return Segment(rest=True)
    if part == "*":
        raise ValueError("* is allowed only at the end of a path; {name} matches one segment")
    if "*" in part or "{" in part or "}" in part:
        raise ValueError(f"{part!r}: * and {{name}} are whole segments, and a name is letters, digits, '_' and '-'")
    return Segment(literal=part)


def params(segments: Sequence[Segment]) -> tuple[str, ...]:
    """The path parameters in order."""
    return tuple(segment.param for segment in segments if segment.param is not None)


def parse_prefix(text: str, segments: Sequence[Segment]) -> bytes:
    """`strip_prefix` for a path: a literal beginning of it, by whole segments."""
    prefix = parse_path(text)
    if not prefix or text.endswith("/") or any(segment.literal is None for segment in prefix):
        raise ValueError("a prefix is literal segments like /inventory, without a trailing slash")
    if tuple(segments[: len(prefix)]) != prefix:
        raise ValueError("the path does not start with this prefix")
    return text.encode()


def shape(segments: Sequence[Segment]) -> tuple[str | None, ...]:
    """What two paths have in common when they tie: parameters' names do not matter."""
    return tuple("*" if segment.rest else segment.literal for segment in segments)


def parse_pointer(text: str) -> tuple[str, ...]:
    """A JSON pointer (RFC 6901), checked; its tokens unescaped."""
    if text and not text.startswith("/"):
        raise ValueError('a JSON pointer starts with "/"')
    if re.search(r"~(?![01])", text):
        raise ValueError('in a JSON pointer "~" is written ~0 (and "/" within a name ~1)')
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


# Methods: which a route allows, and whether a word is one.
#
# Known are the methods that the listener's parser (llhttp) accepts: another one never arrives, so naming it is a
# mistake. HEAD is allowed where GET is; TRACE and CONNECT never.

_STANDARD: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"}
_WEBDAV: Final = {"COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK"}
_VERSIONING: Final = {"ACL", "BIND", "CHECKOUT", "MERGE", "MKACTIVITY", "MKCALENDAR", "REBIND", "REPORT", "UNBIND"}
_OTHERS: Final = {"LINK", "M-SEARCH", "NOTIFY", "PURGE", "SOURCE", "SUBSCRIBE", "UNLINK", "UNSUBSCRIBE"}
KNOWN: Final = frozenset(_STANDARD | _WEBDAV | _VERSIONING | _OTHERS)
DEFAULT: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
READING: Final = frozenset({"GET", "HEAD"})
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY"})
_NEVER: Final = frozenset({"TRACE", "CONNECT"})


def check_method(mark: Mark, method: str, world: CompileContext) -> bool:
    """Whether this is a method that can be allowed; what is wrong is noted."""
    if method in KNOWN:
        return True
    if method in _NEVER:
        world.problems.error(mark, "unknown-method", f"{method} is never allowed")
    else:
        hint = near(method, KNOWN)
        world.problems.error(mark, "unknown-method", f"{quoted(method)} is not a method{hint}")
    return False


def allowed(methods: Iterable[str]) -> frozenset[str]:
    """The methods as named, and HEAD where GET is."""
    named = frozenset(map(str, methods))
    return named | {"HEAD"} if "GET" in named else named
