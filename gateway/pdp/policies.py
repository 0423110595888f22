"""Every `*.cedar` file of a folder as one policy set, its policies named by where they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.pdp.cedar import cedarpy
from gateway.pdp.problem import Problem, did_you_mean, problem_at, read_source

# Cuts Cedar text into policies, and finds the place of a mistake in one of them.
#
# Cedar's parser says what is wrong but not where, and stops at the first mistake of a file. So the text is cut at
# every `;` outside strings and comments (Cedar has it nowhere else) and each policy is parsed by itself. Where a
# mistake is one of syntax, the shortest run of tokens that Cedar refuses for another reason than its end names the
# culprit: it is the last token of that run. Where it is one of meaning, the culprit is the token that Cedar's message
# quotes.
#
# Deliberately absent: any judgement of policies. Cedar alone decides what is valid; the tokens here only find places.

UNFINISHED: Final = "unexpected end of input"
_SKIPPED: Final = r"\s+|//[^\n]*"
_TOKEN: Final = re.compile(rf'(?P<skip>{_SKIPPED})|"(?:[^"\\]|\\.)*"|\w+|::|==|!=|<=|>=|&&|\|\||.', re.DOTALL)
_QUOTED: Final = re.compile(r"`([^`]+)`|: (\S+)$")
_WORDS: Final = (
    "permit", "forbid", "when", "unless", "principal", "action", "resource", "context", "if", "then", "else", "in",
    "is", "has", "like", "true", "false", "contains", "containsAll", "containsAny", "isEmpty", "hasTag", "getTag",
    "ip", "isIpv4", "isIpv6", "isLoopback", "isMulticast", "isInRange", "decimal", "lessThan", "lessThanOrEqual",
    "greaterThan", "greaterThanOrEqual", "datetime", "duration", "offset", "durationSince", "toDate", "toTime",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of Cedar text; `start` and `end` are offsets into the file."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy with its annotations, as written. `tokens` is never empty."""

    tokens: tuple[Token, ...]

    @property
    def start(self) -> int:
        """Offset of the first token."""
        return self.tokens[0].start

    def text(self, source: str, tokens: int | None = None) -> str:
        """The statement's text, or that of its first `tokens` tokens."""
        last = self.tokens[-1 if tokens is None else tokens - 1]
        return source[self.start : last.end]


def statements(source: str) -> Iterator[Statement]:
    """The policies of a text in order; a last one without `;` is among them."""
    tokens: list[Token] = []
    for found in _TOKEN.finditer(source):
        if found["skip"] is None:
            tokens.append(Token(found[0], found.start(), found.end()))
            if found[0] == ";":
                yield Statement(tuple(tokens))
                tokens = []
    if tokens:
        yield Statement(tuple(tokens))


def explain(source: str, statement: Statement, message: str, parse: Callable[[str], str | None]) -> tuple[int, str]:
    """Offset and wording of Cedar's `message` about `statement`. `parse` gives Cedar's message for a text, or None."""
    if message == UNFINISHED:
        return statement.tokens[-1].end, f"{message}: a policy ends with ';'"
    count = _shortest_refused(source, statement, parse)
    culprit = statement.tokens[count - 1]
    if count == len(statement.tokens) and "token" not in message:
        culprit = _quoted(statement, message)
    hint = did_you_mean(culprit.text, _WORDS) if culprit.text not in _WORDS else ""
    return culprit.start, message + hint


def _shortest_refused(source: str, statement: Statement, parse: Callable[[str], str | None]) -> int:
    low, high = 1, len(statement.tokens)
    while low < high:
        middle = (low + high) // 2
        if parse(statement.text(source, middle)) in (None, UNFINISHED):
            low = middle + 1
        else:
            high = middle
    return low


def _quoted(statement: Statement, message: str) -> Token:
    """The token that Cedar's message names: its second occurrence where the complaint is of a duplicate."""
    names = [name.lstrip("@") for groups in _QUOTED.findall(message) for name in groups if name]
    found = [
        token
        for token in statement.tokens
        if any(token.text == name or name.startswith((f"{token.text}::", f"{token.text}.")) for name in names)
    ]
    wanted = 1 if message.startswith("duplicate") else 0
    return found[wanted] if len(found) > wanted else statement.tokens[0]


# Rules: a policy's id is `FILE:LINE:COL`, so a log line or a verdict names the place; an `@id` is unique in the
# folder; templates are refused, because nothing here links them and an unlinked template silently permits and forbids
# nothing. All mistakes of all files are collected.

Reference = tuple[str, str]
ACTION: Final = "Action"


@dataclass(frozen=True, slots=True)
class Named:
    """What one policy names, and where it stands. `types` are those of resources and attributes, no principal's."""

    file: str
    line: int
    col: int
    actions: frozenset[str]
    types: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policies:
    """A parsed policy set. `forbids` are the ids of its forbid policies, `references` the entities that it names."""

    handle: cedarpy.PolicySet
    count: int
    forbids: frozenset[str]
    references: frozenset[Reference]
    named: tuple[Named, ...] = ()


@dataclass(slots=True)
class _Collected:
    policies: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    named: list[Named] = field(default_factory=list)


def load_policies(folder: Path, problems: list[Problem]) -> Policies | None:
    """The folder's policies; None after adding to `problems`."""
    collected = _Collected()
    files = sorted(folder.glob("*.cedar"))
    for file in files:
        _load_file(file, collected)
    if not collected.policies and not collected.problems:
        text = f"there is no policy in {len(files)} *.cedar files, so nothing would be permitted"
        collected.problems.append(Problem(str(folder), 1, 1, "no-policies", text))
    problems += collected.problems
    return None if collected.problems else _compiled(collected.policies, collected.named)


def _compiled(policies: Mapping[str, Mapping[str, Any]], named: Iterable[Named]) -> Policies:
    document = {"staticPolicies": policies, "templates": {}, "templateLinks": []}
    return Policies(
        handle=cedarpy.PolicySet.from_json_str(json.dumps(document)),
        count=len(policies),
        forbids=frozenset(name for name, policy in policies.items() if policy["effect"] == "forbid"),
        references=frozenset(_references(policies)),
        named=tuple(named),
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
    collected.named.append(_named(place, policy))


def _named(place: Problem, policy: Mapping[str, Any]) -> Named:
    references = frozenset(_references({name: part for name, part in policy.items() if name != "principal"}))
    types = {type_ for type_, _ in references if type_ != ACTION} | set(_tested_types(policy["resource"]))
    actions = frozenset(id_ for type_, id_ in references if type_ == ACTION)
    return Named(place.file, place.line, place.col, actions, frozenset(types))


def _tested_types(resource: Mapping[str, Any]) -> Iterator[str]:
    """`resource is T`; what a condition tests may be the principal."""
    if resource["op"] == "is":
        yield resource["entity_type"]


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
