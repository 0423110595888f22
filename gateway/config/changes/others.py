"""What else differs: told, and not judged weaker. Compared as operators see it, so no secret is in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from gateway.config.changes.change import EVERYWHERE, Change
from gateway.config.views import masked
from gateway.model.settings import Configuration

_SECTIONS: Final = ("server", "iam", "iam_shadow", "identity", "upstreams")
_NOT_MEANT: Final = frozenset({"location", "fingerprint", "source", "segments", "id"})
_MOST: Final = 120
Seen = Collection[tuple[str, str]]


def other_changes(old: Configuration, new: Configuration, told: Seen) -> Iterator[Change]:
    """Changes of which `told` (where, field) does not tell already."""
    before, after = masked(old), masked(new)
    yield from _routes(before["routes"], after["routes"], told)
    for section in _SECTIONS:
        for path, was, is_ in _leaves(before[section], after[section], ()):
            if not _is_told(section, path, told):
                yield Change(section, path[0] if path else section, _worded(path, was, is_))


def _is_told(section: str, path: tuple[str, ...], told: Seen) -> bool:
    """Whether a weaker change was about this key of the section."""
    where = f"upstream {path[0]}" if section == "upstreams" else EVERYWHERE
    key = ".".join((section, *path))
    return any(told_where == where and key.startswith(field) for told_where, field in told)


def _routes(old: list[dict[str, Any]], new: list[dict[str, Any]], told: Seen) -> Iterator[Change]:
    before, after = ({route["id"]: route for route in routes} for routes in (old, new))
    for id_, route in after.items():
        if id_ not in before:
            yield Change(id_, "", f"is new: {route['path']}, {_asked(route)}")
    for id_, route in before.items():
        if id_ not in after:
            yield Change(id_, "", f"is gone: {route['path']}")
            continue
        for path, was, is_ in _leaves(route, after[id_], ()):
            if (id_, path[0]) not in told:
                yield Change(id_, path[0], _worded(path, was, is_))


def _asked(route: Mapping[str, Any]) -> str:
    """What a new route asks, in short."""
    kinds = {access["kind"] for access in route["access"].values()}
    checks = sorted({check for access in route["access"].values() for check in access["checks"]})
    return ", ".join(checks) if kinds == {"checks"} else " and ".join(sorted(kinds))


def _leaves(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The smallest members that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name not in _NOT_MEANT:
                yield from _leaves(old.get(name), new.get(name), (*path, str(name)))
    elif old != new:
        yield path, old, new


def _worded(path: tuple[str, ...], old: Any, new: Any) -> str:
    return f"{'.'.join(path)} is {_short(new)}, was {_short(old)}"


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST else text[:_MOST] + "…"
