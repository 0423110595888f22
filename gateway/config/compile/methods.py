"""Methods: which a route allows, and whether a word is one.

Known are the methods that the listener's parser (llhttp) accepts: another one never arrives, so naming it is a mistake.
HEAD is allowed where GET is; TRACE and CONNECT never.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.config.compile.world import World
from gateway.config.problems import Mark, near, quoted

_STANDARD: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"}
_WEBDAV: Final = {"COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK"}
_VERSIONING: Final = {"ACL", "BIND", "CHECKOUT", "MERGE", "MKACTIVITY", "MKCALENDAR", "REBIND", "REPORT", "UNBIND"}
_OTHERS: Final = {"LINK", "M-SEARCH", "NOTIFY", "PURGE", "SOURCE", "SUBSCRIBE", "UNLINK", "UNSUBSCRIBE"}
KNOWN: Final = frozenset(_STANDARD | _WEBDAV | _VERSIONING | _OTHERS)
DEFAULT: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
READING: Final = frozenset({"GET", "HEAD"})
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "QUERY"})
_NEVER: Final = frozenset({"TRACE", "CONNECT"})


def check_method(mark: Mark, method: str, world: World) -> bool:
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
