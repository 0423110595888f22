"""Request fields that are believed only from a gateway or its proxy: taken off before anything else happens."""

from __future__ import annotations

from itertools import product
from typing import Final

from gateway.headers import SPOOFABLE, SPOOFABLE_PREFIXES
from gateway.model.settings import ServerSettings

_TRACE: Final = ("traceparent", "tracestate", "baggage")


def prefixes(server: ServerSettings) -> list[str]:
    """What such fields begin with, in lower case."""
    more = [name[:-1] for name in server.strip_request_headers if name.endswith(b"*")]
    return [name.decode("ascii").lower() for name in (*SPOOFABLE_PREFIXES, *sorted(more))]


def names(server: ServerSettings) -> list[str]:
    """Their names, where they are not known by how they begin, in lower case."""
    more = [name for name in server.strip_request_headers if not name.endswith(b"*")]
    return [*(name.decode("ascii").lower() for name in sorted({*SPOOFABLE, *more})), *_TRACE]


def spellings(name: str) -> list[str]:
    """The name with `-`, `_` and `.` at every place where one of them stands: CGI-like servers read them alike."""
    first, *rest = name.replace("_", "-").replace(".", "-").split("-")
    ways = product("-_.", repeat=len(rest))
    return [first + "".join(map("".join, zip(marks, rest, strict=True))) for marks in ways]


def shown(name: str) -> str:
    """As people write it."""
    return "-".join(part.capitalize() for part in name.split("-"))
