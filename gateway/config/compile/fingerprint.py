"""What is asked of IAM for a route, as one short text: a reload that changes it empties the route's decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from gateway.model.route import Access, Action, AggregateAction, NavigationAction


def fingerprint(id_: str, access: Mapping[str, Access], action: Action) -> str:
    """Changes when the checks of a route, of its parts or of its items change."""
    parts = [id_, *(_asked(method, access[method]) for method in sorted(access))]
    if isinstance(action, AggregateAction):
        parts += [_asked(part.name, part.access) for part in action.parts]
    if isinstance(action, NavigationAction):
        parts += [action.items, action.check.source]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _asked(name: str, access: Access | None) -> str:
    return f"{name} {access.kind} {[check.source for check in access.checks]}" if access else f"{name} -"
