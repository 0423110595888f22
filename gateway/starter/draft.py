"""What was understood of somebody else's configuration, and what was left out, with its line."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from gateway.config.paths import parse_path
from gateway.config.values import host_name
from gateway.model.route import Segment

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9]+")
_LONGEST_NAME: Final = 60
_LONGEST_NOTE: Final = 300


class NotUnderstoodError(ValueError):
    """The file as a whole is of no use: one line for the user."""


@dataclass(frozen=True, slots=True)
class DraftRoute:
    """One route. `upstream` is a name of `Draft.upstreams`."""

    id: str
    path: str
    upstream: str
    host: str = ""
    methods: tuple[str, ...] = ()
    strip_prefix: str = ""


@dataclass(slots=True)
class Draft:
    """Routes and upstreams of `file`. `left_out` are lines `FILE:LINE: what and why`."""

    file: str
    routes: list[DraftRoute] = field(default_factory=list)
    upstreams: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    _taken: set[tuple[str, tuple[Segment, ...]]] = field(default_factory=set)

    def leave_out(self, line: int, why: str) -> None:
        """Note what was not understood, or has no like here; once, also where it was seen for several hosts."""
        # It becomes a comment in the file that is written: nothing of it may end the line.
        shown = "".join(char if char.isprintable() else " " for char in why)
        note = f"{self.file}:{line}: {shown[:_LONGEST_NOTE]}"
        if note not in self.left_out:
            self.left_out.append(note)

    def upstream(self, urls: list[str], line: int) -> str:
        """The name of an upstream with these URLs, "" if they are none that the gateway forwards to."""
        plain = [_origin(url) for url in urls]
        if not plain or None in plain:
            self.leave_out(line, f"{', '.join(urls) or 'nothing'}: not the http:// or https:// URL of an origin")
            return ""
        origins = [origin for origin in plain if origin is not None]
        for name, known in self.upstreams.items():
            if known == origins:
                return name
        host = _name(urlsplit(origins[0]).hostname or "")
        name = _free(host if re.search("[a-z]", host) else "backend", self.upstreams)
        self.upstreams[name] = origins
        return name

    def route(
        self, path: str, upstream: str, line: int, *, host: str = "", methods: tuple[str, ...] = (), strip: str = ""
    ) -> None:
        """Add a route, unless its path or host is none that can be matched here, or is there already."""
        try:
            segments = parse_path(path)
            host = host_name(host) if host else ""
        except ValueError as error:
            self.leave_out(line, f"{host}{path}: {error}")
            return
        shape = tuple(Segment(param="x") if segment.param else segment for segment in segments)
        if (host, shape) in self._taken:
            self.leave_out(line, f"{host}{path}: there is a route for this path already")
            return
        self._taken.add((host, shape))
        id_ = _free(_name(f"{host} {path}" if host else path) or "root", {route.id for route in self.routes} | {"iam"})
        self.routes.append(DraftRoute(id_, path, upstream, host, methods, strip))

    def ready(self) -> Draft:
        """Itself. Raises NotUnderstoodError if there is no route to begin with."""
        if not self.routes:
            left = "".join(f"\n  {line}" for line in self.left_out)
            raise NotUnderstoodError(f"{self.file}: no route was understood{left}")
        return self


def _origin(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _name(text: str) -> str:
    return _NOT_IN_NAMES.sub("-", text).strip("-").lower()[:_LONGEST_NAME].rstrip("-")


def _free(name: str, taken: Collection[str]) -> str:
    number, free = 1, name or "backend"
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
