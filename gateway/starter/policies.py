"""The first access policies, for a starter whose gateway decides by itself: a reader, a writer, and cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from gateway.starter.draft import Draft

EMBEDDED: Final = "embedded"
"""Stands where else the URL of IAM stands."""
_FOLDER: Final = Path("policies/access")
_POLICIES: Final = """\
// Who may do what. Nothing is permitted unless a policy here permits it.
// A route asks "{method} route:{route.id}": may this subject do METHOD on this route?
permit (principal in Role::"reader", action in [Action::"GET", Action::"HEAD"], resource);
permit (principal in Role::"writer", action, resource);
"""
_CASES: Final = """\
# What the policies must answer. `gateway policy test` asks them.
[[case]]
why = "readers read"
subject = "bob"
check = "GET route:{route}"
allow = true

[[case]]
why = "readers change nothing"
subject = "bob"
check = "DELETE route:{route}"
allow = false

[[case]]
why = "writers change things"
subject = "alice"
check = "DELETE route:{route}"
allow = true
"""
_MEMBERS: Final = {"alice": "writer", "bob": "reader"}


def policy_files(draft: Draft) -> dict[Path, str]:
    """The files beside routes.yaml, by path. Alice is a writer, Bob a reader."""
    roles = [_entity("Role", role) for role in sorted(set(_MEMBERS.values()))]
    people = [_entity("Identity", name, role) for name, role in _MEMBERS.items()]
    lines = ",\n ".join(json.dumps(entity) for entity in [*roles, *people])
    return {
        _FOLDER / "starter.cedar": _POLICIES,
        _FOLDER / "entities.json": f"[{lines}]\n",
        _FOLDER / "starter.cases.toml": _CASES.format(route=draft.routes[0].id),
    }


def _entity(kind: str, name: str, role: str = "") -> dict[str, object]:
    parents = [{"type": "Role", "id": role}] if role else []
    return {"uid": {"type": kind, "id": name}, "attrs": {}, "parents": parents}
