"""Paths of routes as regular expressions that PCRE (nginx) and RE2 (Envoy, Caddy, Traefik) read alike."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.model.route import Segment


def path_pattern(segments: tuple[Segment, ...]) -> str:
    """The whole path of a route, decoded; one trailing slash is as none."""
    if segments and segments[-1].rest:
        return f"^{_joined(segments[:-1])}(/.*)?$"
    return f"^{_joined(segments)}/?$"


def specificity(segments: tuple[Segment, ...]) -> list[int]:
    """Sorts as routing does: a literal before `{x}` before `*`, left to right; the end of a path before its `*`."""
    return [0 if segment.literal is not None else 2 if segment.rest else 1 for segment in segments] + [-1]


def field_pattern(starts: Iterable[str], names: Iterable[str]) -> str:
    """Field names in any case, also with `_` and `.` for `-`: what begins with one of `starts`, and whole names."""
    begun, whole = "|".join(map(_spelt, starts)), "|".join(map(_spelt, names))
    return f"(?i)^(?:(?:{begun}).*|{whole})$"


def _spelt(name: str) -> str:
    return "[-_.]".join(map(exactly, name.split("-")))


def _joined(segments: tuple[Segment, ...]) -> str:
    return "".join("/" + ("[^/]+" if segment.literal is None else exactly(segment.literal)) for segment in segments)


def exactly(text: str) -> str:
    """No character is left that a regular expression or a quoted string of a configuration could read as its own."""
    return "".join(
        char if char.isalnum() or char in "-_~/" or not char.isascii() else f"\\x{ord(char):02x}" for char in text
    )
