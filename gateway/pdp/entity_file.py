"""Loads `entities.json`, a list of entities in Cedar's JSON; mistakes are told with their place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.pdp.cedar import cedarpy
from gateway.pdp.problem import Problem, did_you_mean, problem_at, read_source
from gateway.pdp.question import Uid

# JSON with the place of every value, for messages about a file that a person writes.
#
# The standard library says where JSON is broken but not where a value stood. So a second walk, over text that is
# known to be valid, notes places; it is made only when something has to be said. Rules: duplicate keys are a mistake,
# `NaN` and `Infinity` too.

Path_ = tuple[str | int, ...]
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_SCALAR: Final = re.compile(r"[^\s,\]}]+")


class JsonFile:
    """A parsed file. `value` is its content; `problem` makes a problem at a path of keys and indexes."""

    def __init__(self, file: Path, text: str, problems: list[Problem]) -> None:
        """Parse, adding to `problems`; `value` is None if nothing could be parsed. Raises RecursionError."""
        self._file = file
        self._text = text
        self._offsets: dict[Path_, int] = {}
        self._duplicates = False
        self.value: Any = None
        try:
            self.value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=self._object)
        except json.JSONDecodeError as error:
            problems.append(problem_at(file, text, error.pos, "json-syntax", error.msg[0].lower() + error.msg[1:]))
        except _ConstantError as error:
            problems.append(problem_at(file, text, text.find(str(error)), "json-syntax", f"{error} is not JSON"))
        if self._duplicates and self.value is not None:
            self._read(0, (), problems)

    def problem(self, path: Path_, problem_id: str, message: str) -> Problem:
        """A problem at the value (or, for a member, at its key) that `path` leads to."""
        if not self._offsets:
            self._read(0, (), [])
        return problem_at(self._file, self._text, self._offsets.get(path, 0), problem_id, message)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        self._duplicates |= len(members) != len(pairs)
        return members

    def _read(self, at: int, path: Path_, problems: list[Problem]) -> tuple[Any, int]:
        at = self._skip(at)
        self._offsets.setdefault(path, at)
        match self._text[at]:
            case "{":
                return self._read_object(at + 1, path, problems)
            case "[":
                return self._read_list(at + 1, path, problems)
            case '"':
                return self._read_string(at)
        found = _SCALAR.match(self._text, at)
        end = found.end() if found else at
        return json.loads(self._text[at:end]), end

    def _read_object(self, at: int, path: Path_, problems: list[Problem]) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        at = self._skip(at)
        while self._text[at] != "}":
            key_at = self._skip(at + 1 if self._text[at] == "," else at)
            key, at = self._read_string(key_at)
            if key in members:
                message = f"duplicate key {json.dumps(key)}"
                problems.append(problem_at(self._file, self._text, key_at, "duplicate-key", message))
            self._offsets[(*path, key)] = key_at
            members[key], at = self._read(self._skip(at) + 1, (*path, key), problems)
            at = self._skip(at)
        return members, at + 1

    def _read_list(self, at: int, path: Path_, problems: list[Problem]) -> tuple[list[Any], int]:
        items: list[Any] = []
        at = self._skip(at)
        while self._text[at] != "]":
            item, at = self._read(at + 1 if self._text[at] == "," else at, (*path, len(items)), problems)
            items.append(item)
            at = self._skip(at)
        return items, at + 1

    def _read_string(self, at: int) -> tuple[str, int]:
        found = _STRING.match(self._text, at)
        end = found.end() if found else at
        return json.loads(self._text[at:end]), end

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at


class _ConstantError(ValueError):
    """`NaN` or the like stands in the text."""


def _refuse_constant(name: str) -> Any:
    raise _ConstantError(name)


# Rules: `attrs` and `parents` may be left out; unknown members are mistakes; an entity stands once; parents form no
# cycle. Cedar's own message for a bad entity names neither entity nor member, so what it would refuse is looked for
# here first; then Cedar reads all of them, and if it refuses, each one by itself, so that its refusal has a place.

ENTITY_FILE: Final = "entities.json"
_MEMBERS: Final = ("uid", "attrs", "parents", "tags")
_UID_MEMBERS: Final = ("type", "id")
_TYPE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_][A-Za-z0-9_]*)*")
_INTEGERS: Final = range(-(2**63), 2**63)

Entities = dict[Uid, dict[str, Any]]


def load_entities(folder: Path, problems: list[Problem]) -> Entities:
    """The folder's entities by identity; none where there is no file. Adds to `problems`."""
    file = folder / ENTITY_FILE
    if not file.exists():
        return {}
    text = read_source(file, problems)
    if text is None:
        return {}
    found: list[Problem] = []
    try:
        return _Reader(JsonFile(file, text, found), found).entities()
    except RecursionError:
        found = [Problem(str(file), 1, 1, "json-syntax", "nested too deeply")]
        return {}
    finally:
        problems += found


class _Reader:
    def __init__(self, document: JsonFile, problems: list[Problem]) -> None:
        self._document = document
        self._problems = problems

    def entities(self) -> Entities:
        value = self._document.value
        if value is None:
            return {}
        if not isinstance(value, list):
            self._add((), "entity-shape", "entities.json is a list of entities")
            return {}
        entities: Entities = {}
        for index, item in enumerate(value):
            self._read_entity(index, item, entities)
        if not self._problems:
            self._refuse_cycles(entities, list(entities))
        if not self._problems and not _accepted(entities.values()):
            self._refuse_each(entities)
        return entities

    def _add(self, path: Path_, problem_id: str, message: str) -> None:
        self._problems.append(self._document.problem(path, problem_id, message))

    def _read_entity(self, index: int, item: Any, entities: Entities) -> None:
        before = len(self._problems)
        if not isinstance(item, dict):
            self._add((index,), "entity-shape", "an entity is an object with 'uid', 'attrs' and 'parents'")
            return
        for name in item.keys() - set(_MEMBERS):
            self._add((index, name), "unknown-key", f"unknown key '{name}'{did_you_mean(name, _MEMBERS)}")
        uid = self._uid(item.get("uid"), (index, "uid") if "uid" in item else (index,))
        attrs = self._record(item, "attrs", index)
        tags = self._record(item, "tags", index)
        parents = self._parents(item.get("parents", []), index)
        if len(self._problems) > before or uid is None:
            return
        entity = {"uid": _uid_json(uid), "attrs": attrs, "tags": tags, "parents": [_uid_json(p) for p in parents]}
        if uid in entities:
            self._add((index, "uid"), "duplicate-entity", f'{uid.type}::"{uid.id}" stands here a second time')
        else:
            entities[uid] = entity

    def _refuse_each(self, entities: Entities) -> None:
        for index, entity in enumerate(entities.values()):
            if not _accepted([{**entity, "parents": []}]):
                self._add(
                    (index,), "entity-value", "Cedar cannot read this entity: is an __extn or __entity malformed?"
                )

    def _uid(self, value: Any, path: Path_) -> Uid | None:
        if isinstance(value, dict) and value.keys() == {"__entity"}:
            value = value["__entity"]
        if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in _UID_MEMBERS):
            self._add(path, "entity-uid", 'an entity is named {"type": "…", "id": "…"}')
            return None
        for name in value.keys() - set(_UID_MEMBERS):
            self._add((*path, name), "unknown-key", f"unknown key '{name}'{did_you_mean(name, _UID_MEMBERS)}")
        if not _TYPE.fullmatch(value["type"]):
            self._add((*path, "type"), "entity-type", f"'{value['type']}' is not a Cedar type name")
            return None
        return Uid(value["type"], value["id"])

    def _parents(self, value: Any, index: int) -> list[Uid]:
        if not isinstance(value, list):
            self._add((index, "parents"), "entity-shape", "'parents' is a list of entities")
            return []
        uids = [self._uid(item, (index, "parents", place)) for place, item in enumerate(value)]
        return [uid for uid in uids if uid is not None]

    def _record(self, item: Mapping[str, Any], name: str, index: int) -> Mapping[str, Any]:
        value = item.get(name, {})
        if not isinstance(value, dict):
            self._add((index, name), "entity-shape", f"'{name}' is an object")
            return {}
        self._check_value(value, (index, name))
        return value

    def _check_value(self, value: Any, path: Path_) -> None:
        if value is None:
            self._add(path, "entity-value", "Cedar has no null: leave the attribute out")
        elif isinstance(value, float):
            message = 'Cedar has no floating point: write {"__extn": {"fn": "decimal", "arg": "1.5"}}'
            self._add(path, "entity-value", message)
        elif isinstance(value, int) and value not in _INTEGERS:
            self._add(path, "entity-value", "the number does not fit 64 bits")
        elif isinstance(value, dict):
            for name, member in value.items():
                self._check_value(member, (*path, name))
        elif isinstance(value, list):
            for place, member in enumerate(value):
                self._check_value(member, (*path, place))

    def _refuse_cycles(self, entities: Entities, order: list[Uid]) -> None:
        left = {uid: {Uid(**parent) for parent in entities[uid]["parents"]} & entities.keys() for uid in order}
        free = [uid for uid in order if not left[uid]]
        children: dict[Uid, list[Uid]] = {}
        for uid, parents in left.items():
            for parent in parents:
                children.setdefault(parent, []).append(uid)
        while free:
            done = free.pop()
            del left[done]
            for child in children.get(done, ()):
                left[child].discard(done)
                if not left[child]:
                    free.append(child)
        if left:
            names = ", ".join(f'{uid.type}::"{uid.id}"' for uid in order if uid in left)
            index = next(place for place, uid in enumerate(order) if uid in left)
            self._add((index, "parents"), "entity-cycle", f"the parents of {names} form a cycle")


def _accepted(entities: Iterable[Mapping[str, Any]]) -> bool:
    try:
        cedarpy.Entities.from_json_str(json.dumps(list(entities)))
    except ValueError:
        return False
    return True


def _uid_json(uid: Uid) -> dict[str, str]:
    return {"type": uid.type, "id": uid.id}
