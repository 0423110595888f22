"""Loads every `*.cedar` file of a folder into one policy set whose policies are named by where they stand.

Rules: a policy's id is `FILE:LINE:COL`, so a log line or a verdict names the place; an `@id` is unique in the folder;
templates are refused, because nothing here links them and an unlinked template silently permits and forbids nothing.
All mistakes of all files are collected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.pdp.cedar import cedarpy
from gateway.pdp.problem import Problem, problem_at
from gateway.pdp.source import read_source
from gateway.pdp.statements import Statement, explain, statements

Reference = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Policies:
    """A parsed policy set. `forbids` are the ids of its forbid policies, `references` the entities that it names."""

    handle: cedarpy.PolicySet
    count: int
    forbids: frozenset[str]
    references: frozenset[Reference]


@dataclass(slots=True)
class _Collected:
    policies: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def load_policies(folder: Path, problems: list[Problem]) -> Policies | None:
    """The folder's policies; None after adding to `problems`."""
    collected = _Collected()
    files = sorted(folder.glob("*.cedar"))
    for file in files:
        _load_file(file, collected)
    if not collected.policies and not collected.problems:
        text = f"there is no policy in {len(files)} *.cedar files, so nothing could ever be permitted"
        collected.problems.append(Problem(str(folder), 1, 1, "no-policies", text))
    problems += collected.problems
    return None if collected.problems else _compiled(collected.policies)


def _compiled(policies: Mapping[str, Mapping[str, Any]]) -> Policies:
    document = {"staticPolicies": policies, "templates": {}, "templateLinks": []}
    return Policies(
        handle=cedarpy.PolicySet.from_json_str(json.dumps(document)),
        count=len(policies),
        forbids=frozenset(name for name, policy in policies.items() if policy["effect"] == "forbid"),
        references=frozenset(_references(policies)),
    )


def _load_file(file: Path, collected: _Collected) -> None:
    source = read_source(file, collected.problems)
    for statement in statements(source or ""):
        _load_statement(file, source or "", statement, collected)


def _load_statement(file: Path, source: str, statement: Statement, collected: _Collected) -> None:
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(statement.text(source)))
    except ValueError as error:
        offset, message = explain(source, statement, str(error), _complaint)
        collected.problems.append(problem_at(file, source, offset, "policy-syntax", message))
        return
    if parsed["templates"]:
        slot = next((token for token in statement.tokens if token.text == "?"), statement.tokens[0])
        message = "templates (?principal, ?resource) are not supported; write a policy for a group of entities"
        collected.problems.append(problem_at(file, source, slot.start, "policy-template", message))
        return
    (policy,) = parsed["staticPolicies"].values()
    place = problem_at(file, source, statement.start, "duplicate-id", "")
    _note_id(place, (policy.get("annotations") or {}).get("id"), collected)
    collected.policies[f"{file.name}:{place.line}:{place.col}"] = policy


def _note_id(place: Problem, policy_id: str | None, collected: _Collected) -> None:
    if policy_id is None:
        return
    first = collected.ids.setdefault(policy_id, f"{place.file}:{place.line}:{place.col}")
    if first != f"{place.file}:{place.line}:{place.col}":
        message = f"@id({json.dumps(policy_id)}) already names the policy at {first}"
        collected.problems.append(Problem(place.file, place.line, place.col, "duplicate-id", message))


def _complaint(text: str) -> str | None:
    try:
        cedarpy.policies_to_json_str(text)
    except ValueError as error:
        return str(error)
    return None


def _references(node: Any) -> Iterator[Reference]:
    """Every `{"type": …, "id": …}` in Cedar's JSON of the policies: too many is harmless, too few would not be."""
    if isinstance(node, Mapping):
        if isinstance(node.get("type"), str) and isinstance(node.get("id"), str):
            yield node["type"], node["id"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
