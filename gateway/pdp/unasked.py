"""What access policies name and nobody asks for: most often a word that is misspelt, so that the policy never decides.

A warning, not a mistake: a decision point may serve others too. Where a route leaves open what it asks (a placeholder,
`permissions`), only a name that is nearly one of those that are asked is told.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.model.route import AggregateAction, CheckTemplate, NavigationAction, PermissionsAction, Route
from gateway.pdp.entity_file import load_entities
from gateway.pdp.policies import ACTION, load_policies
from gateway.pdp.problem import did_you_mean
from gateway.pdp.question import Uid, type_name
from gateway.template import Template

_NEAR: Final = 0.7
_METHOD: Final = "method"


@dataclass(slots=True)
class _Asked:
    """The names that routes ask for; `leaves_open`: there may be others."""

    names: set[str] = field(default_factory=set)
    leaves_open: bool = False

    def misses(self, name: str) -> bool:
        """Whether nobody asks for that name."""
        if name in self.names:
            return False
        return not self.leaves_open or bool(difflib.get_close_matches(name, self.names, n=1, cutoff=_NEAR))


def warnings_of(folder: Path, routes: Iterable[Route]) -> Iterator[str]:
    """One line for each name, as `FILE:LINE:COL: warning[id]: message`; none for a folder with mistakes."""
    policies, entities = load_policies(folder, []), load_entities(folder, [])
    if policies is None:
        return
    actions, types = _asked(routes)
    groups = _groups(entities, actions.names)
    types.names |= {uid.type for uid in _uids(entities)}
    for policy in policies.named:
        place = f"{policy.file}:{policy.line}:{policy.col}"
        for action in sorted(policy.actions - groups):
            if actions.misses(action):
                hint = did_you_mean(action, sorted(actions.names))
                yield f"{place}: warning[unasked-action]: no route asks for the action '{action}'{hint}"
        for name in sorted(policy.types):
            if types.misses(name):
                hint = did_you_mean(name, sorted(types.names))
                yield f"{place}: warning[unknown-type]: no route asks for a '{name}', and entities.json has none{hint}"


def _asked(routes: Iterable[Route]) -> tuple[_Asked, _Asked]:
    actions, types = _Asked(), _Asked()
    for route in routes:
        if isinstance(route.action, PermissionsAction):
            actions.leaves_open = types.leaves_open = True
        for check in _checks(route):
            _note(check.action["name"], actions, route)
            _note(check.resource["type"], types, route)
    types.names = {_type(name) for name in types.names}
    return actions, types


def _checks(route: Route) -> Iterator[CheckTemplate]:
    for access in route.access.values():
        yield from access.checks
    match route.action:
        case NavigationAction(check=check):
            yield check
        case AggregateAction(parts=parts):
            for part in parts:
                yield from part.access.checks if part.access else ()


def _note(text: Any, asked: _Asked, route: Route) -> None:
    if not isinstance(text, Template):
        asked.leaves_open = True
    elif text.literal is not None:
        asked.names.add(text.literal)
    elif len(text.parts) == 1 and text.placeholders[0].kind == _METHOD:
        asked.names |= route.methods
    else:
        asked.leaves_open = True


def _type(name: str) -> str:
    try:
        return type_name(name)
    except KeyError:
        return name


def _uids(entities: Mapping[Uid, Mapping[str, Any]]) -> Iterator[Uid]:
    for uid, entity in entities.items():
        yield uid
        yield from (Uid(parent["type"], parent["id"]) for parent in entity["parents"])


def _groups(entities: Mapping[Uid, Mapping[str, Any]], asked: set[str]) -> set[str]:
    """The actions that stand for one that is asked, by `parents` of entities.json."""
    groups: set[str] = set()
    upwards = [Uid(ACTION, name) for name in asked]
    while upwards:
        for parent in entities.get(upwards.pop(), {}).get("parents", ()):
            if parent["type"] == ACTION and parent["id"] not in groups:
                groups.add(parent["id"])
                upwards.append(Uid(ACTION, parent["id"]))
    return groups
