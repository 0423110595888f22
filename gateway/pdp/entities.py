"""The entities of a policy folder, and what a question's own properties add to them.

Parsed once. A question without properties uses the whole set as it is. A question with properties needs a set in which
its principal and resource have more attributes, and Cedar's sets cannot change an entity, only gain one. So the
*core*, entities that others point to (parents, values of attributes, names in policies), is kept apart from the
*leaves*, which nothing points to: core plus the leaves that are asked about is built in microseconds
however many other leaves there are.
Only properties of a core entity make a set anew, at a cost that grows with entities.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.pdp.cedar import cedarpy
from gateway.pdp.question import Uid


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
