"""An AuthZEN evaluation in Cedar's terms (Authorization API 1.0, sections 5 and 6), with the entities it brings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from gateway.pdp.cedar import cedarpy

# | AuthZEN | Cedar |
# |---|---|
# | `subject`, `resource` `{type: t, id: i}` | entity `T::"i"` |
# | `action.name` | `Action::"name"` |
# | `subject.properties`, `resource.properties` | attributes of that entity, over those of entities.json |
# | `context`, then `action.properties` over it | Cedar's context |
#
# Types are capitalised: `system` → `System`; `_`, `-` and `.` part words: `audit_log`, `audit-log` → `AuditLog`; `::`
# parts namespaces: `hr::user` → `Hr::User`. Any other character makes a question that cannot be asked. Values: a
# `null` member is left out, whole numbers must fit 64 bits, other numbers become Cedar decimals (at most four
# decimals). `__entity`, `__extn` and `__expr` are Cedar's escapes inside JSON and refused: a caller's data is data.
#
# Nothing of a question ever becomes policy text; ids reach Cedar as JSON strings. Unknown members are ignored.

MAX_DEPTH: Final = 32
OPAQUE_TYPE: Final = "Token"
"""The Cedar type of an opaque bearer token: the id of such an entity is a secret."""
_RESERVED: Final = frozenset({"__entity", "__extn", "__expr"})
_INTEGERS: Final = range(-(2**63), 2**63)
_DECIMAL: Final = re.compile(r"-?\d{1,14}\.\d{1,4}")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_WORDS: Final = re.compile(r"[-_.]+")
_NO_CONTEXT: Final = "{}"


class Malformed(ValueError):
    """The question cannot be asked. The text names the member and holds no value of it."""


class Uid(NamedTuple):
    """A Cedar entity's identity."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One question for Cedar. `context` is JSON text; `attributes` are the properties per entity, in Cedar's JSON."""

    principal: Uid
    action: str
    resource: Uid
    context: str
    attributes: Mapping[Uid, Mapping[str, Any]]

    @property
    def attributes_text(self) -> str:
        """The same for questions that bring the same properties; empty for none."""
        return json.dumps([[*uid, own] for uid, own in self.attributes.items()]) if self.attributes else ""

    @property
    def request(self) -> dict[str, Any]:
        """The request as cedarpy takes it."""
        return {
            "principal": {"type": self.principal.type, "id": self.principal.id},
            "action": {"type": "Action", "id": self.action},
            "resource": {"type": self.resource.type, "id": self.resource.id},
            "context": self.context,
        }


def read_question(document: Any) -> Asked:
    """An evaluation → Asked. Raises Malformed."""
    if not isinstance(document, Mapping):
        raise Malformed("the evaluation is not an object")
    subject, action, resource = (_member(document, name) for name in ("subject", "action", "resource"))
    principal, target = _uid(subject, "subject"), _uid(resource, "resource")
    attributes: dict[Uid, Mapping[str, Any]] = {}
    for uid, holder, name in ((principal, subject, "subject"), (target, resource, "resource")):
        properties = _properties(holder, name)
        if properties:
            attributes[uid] = {**attributes.get(uid, {}), **properties}
    return Asked(
        principal=principal,
        action=_text(action, "name", "action"),
        resource=target,
        context=_context(document, action),
        attributes=attributes,
    )


def _member(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if name not in document:
        raise Malformed(f"{name} is missing")
    return _object(document[name], name)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Malformed(f"{name} is not an object")
    return value


def _text(holder: Mapping[str, Any], name: str, where: str) -> str:
    value = holder.get(name)
    if value is None and name not in holder:
        raise Malformed(f"{where}.{name} is missing")
    if not isinstance(value, str):
        raise Malformed(f"{where}.{name} is not a string")
    if not value:
        raise Malformed(f"{where}.{name} is empty")
    if not value.isascii():
        _encodable(value, f"{where}.{name}")
    return value


def _encodable(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Malformed(f"{where} holds a lone surrogate") from None


def _uid(holder: Mapping[str, Any], where: str) -> Uid:
    try:
        return Uid(type_name(_text(holder, "type", where)), _text(holder, "id", where))
    except KeyError:
        raise Malformed(f"{where}.type is not a usable name") from None


@lru_cache(maxsize=1024)
def type_name(text: str) -> str:
    """`audit_log` → `AuditLog`. Raises KeyError for what cannot name a type."""
    parts = []
    for part in text.split("::"):
        name = "".join(word[:1].upper() + word[1:] for word in _WORDS.split(part))
        if not _NAME.fullmatch(name):
            raise KeyError(text)
        parts.append(name)
    return "::".join(parts)


def _context(document: Mapping[str, Any], action: Mapping[str, Any]) -> str:
    context = document.get("context")
    if context is None and "context" not in document and "properties" not in action:
        return _NO_CONTEXT
    merged = _record({} if "context" not in document else _object(context, "context"), "context", 0)
    merged.update(_properties(action, "action"))
    return json.dumps(merged)


def _properties(holder: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "properties" not in holder:
        return {}
    name = f"{where}.properties"
    return _record(_object(holder["properties"], name), name, 0)


def _record(value: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise Malformed(f"{where} is nested deeper than {MAX_DEPTH} levels")
    if not _RESERVED.isdisjoint(value):
        raise Malformed(f"{where} holds a member name that Cedar reserves")
    for name in value:
        _encodable(name, where)
    return {name: _value(member, where, depth + 1) for name, member in value.items() if member is not None}


def _value(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, str):
        _encodable(value, where)
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in _INTEGERS:
            raise Malformed(f"{where} holds a whole number that does not fit 64 bits")
        return value
    if isinstance(value, float):
        return _decimal(value, where)
    if isinstance(value, Mapping):
        return _record(value, where, depth)
    if isinstance(value, (list, tuple)):
        return _list(value, where, depth)
    raise Malformed(f"{where} holds a value that JSON does not have")


def _list(value: list[Any] | tuple[Any, ...], where: str, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise Malformed(f"{where} is nested deeper than {MAX_DEPTH} levels")
    if None in value:
        raise Malformed(f"{where} holds a list with null in it")
    return [_value(member, where, depth + 1) for member in value]


def _decimal(value: float, where: str) -> Any:
    if math.isfinite(value) and value.is_integer() and int(value) in _INTEGERS:
        return int(value)
    text = repr(value)
    if not _DECIMAL.fullmatch(text):
        raise Malformed(f"{where} holds a number that is no Cedar decimal (at most four decimals)")
    return {"__extn": {"fn": "decimal", "arg": text}}


# The entities of a policy folder, and what a question's own properties add to them.
#
# Parsed once. A question without properties uses the whole set as it is. A question with properties needs a set in
# which its principal and resource have more attributes, and Cedar's sets cannot change an entity, only gain one. So
# the *core*, entities that others point to (parents, values of attributes, names in policies), is kept apart from the
# *leaves*, which nothing points to: core plus the leaves that are asked about is built in microseconds however many
# other leaves there are. Only properties of a core entity make a set anew, at a cost that grows with entities.json.


class EntityStore:
    """A folder's entities. `entities` are entities in Cedar's JSON, already checked."""

    __slots__ = ("_core", "_core_uids", "_known", "whole")

    def __init__(self, entities: Mapping[Uid, Mapping[str, Any]], references: Iterable[tuple[str, str]]) -> None:
        """`references`: entities that policies name. Raises ValueError where Cedar refuses the set (a cycle)."""
        self._known = dict(entities)
        pointed_at = {Uid(*reference) for reference in references}
        for entity in entities.values():
            pointed_at.update(_references(entity))
        self._core_uids = pointed_at
        self.whole = _parsed(self._known.values())
        self._core = _parsed(entity for uid, entity in self._known.items() if uid in pointed_at)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def uids(self) -> Iterable[Uid]:
        """All entities of the folder."""
        return self._known.keys()

    def with_attributes(self, attributes: Mapping[Uid, Mapping[str, Any]], asked: Iterable[Uid]) -> cedarpy.Entities:
        """The entities for questions that bring `attributes`; `asked` are their principals and resources."""
        if not self._core_uids.isdisjoint(attributes):
            merged = {**self._known, **{uid: self._merged(uid, own) for uid, own in attributes.items()}}
            return _parsed(merged.values())
        leaves = [self._merged(uid, attributes.get(uid, {})) for uid in asked if uid not in self._core_uids]
        return self._core.with_added_json_str(json.dumps(leaves))

    def _merged(self, uid: Uid, own: Mapping[str, Any]) -> dict[str, Any]:
        known = self._known.get(uid)
        if known is None:
            return {"uid": {"type": uid.type, "id": uid.id}, "attrs": own, "parents": []}
        return {**known, "attrs": {**known["attrs"], **own}}


def _parsed(entities: Iterable[Mapping[str, Any]]) -> cedarpy.Entities:
    return cedarpy.Entities.from_json_str(json.dumps(list(entities)))


def _references(entity: Mapping[str, Any]) -> Iterator[Uid]:
    for parent in entity["parents"]:
        yield Uid(parent["type"], parent["id"])
    yield from _values(entity["attrs"])
    yield from _values(entity.get("tags", {}))


def _values(node: Any) -> Iterator[Uid]:
    if isinstance(node, Mapping):
        if isinstance(node.get("type"), str) and isinstance(node.get("id"), str):
            yield Uid(node["type"], node["id"])
        for value in node.values():
            yield from _values(value)
    elif isinstance(node, list):
        for value in node:
            yield from _values(value)
