"""The JSON Schema of routes.yaml for editors, and `docs/configuration.md` made of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gateway.config.keys import Keys
from gateway.config.policies import BUILT_IN_NAMES, built_in_text
from gateway.config.resilience import PolicyKeys
from gateway.config.route_keys import PartKeys, RouteKeys, RoutesFile

# The JSON Schema of routes.yaml, for editors: the key models with what the library adds to them smoothed away.
#
# Keys that may be left out but not be empty appear without `null`; values may be `${…}` wherever a scalar stands, as
# the types say. What depends on several keys at once is for `gateway validate`.

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_NULLABLE: Final = frozenset({"batch_path", "json"})
_VARIABLE: Final = {"type": "string", "pattern": r"\$\{[^{}]+\}"}


def json_schema() -> dict[str, Any]:
    """The schema of routes.yaml as a JSON document."""
    schema = schema_of(RoutesFile)
    for model in (RouteKeys, PartKeys):
        _own_keys_first(schema["$defs"][model.__name__], model)
    return {"$schema": DIALECT, "title": "routes.yaml of the gateway"} | schema


def schema_of(model: type[Keys]) -> dict[str, Any]:
    """The schema of one mapping."""
    schema: dict[str, Any] = _smoothed(model.model_json_schema(by_alias=True), "")
    return schema


def _own_keys_first(schema: dict[str, Any], model: type[Keys]) -> None:
    """A model's own keys before those of the models that it extends: the order in which they are written."""
    properties = schema["properties"]
    inherited = {name for base in model.__mro__[1:] for name in vars(base).get("__annotations__", ())}
    schema["properties"] = dict(sorted(properties.items(), key=lambda item: item[0] in inherited))


def _smoothed(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_smoothed(item, "") for item in value]
    if not isinstance(value, dict):
        return value
    members = {key: _member(key, member) for key, member in value.items()}
    if isinstance(value.get("title"), str):
        del members["title"]
    return _one_way(_without_null(members, name))


def _member(key: str, member: Any) -> Any:
    if key in ("properties", "$defs"):
        return {name: _smoothed(inner, name) for name, inner in member.items()}
    return member if key in ("default", "const", "enum", "examples") else _smoothed(member, key)


def _without_null(schema: dict[str, Any], name: str) -> dict[str, Any]:
    if name in _NULLABLE:
        return schema
    if schema.get("default", 0) is None:
        schema = {key: value for key, value in schema.items() if key != "default"}
    for union in ("anyOf", "oneOf"):
        if union in schema:
            schema = schema | {union: [each for each in schema[union] if not _is_nothing(each)]}
    return schema


def _is_nothing(schema: Any) -> bool:
    return bool(schema == {"type": "null"})


def _one_way(schema: dict[str, Any]) -> dict[str, Any]:
    """A union of one is that one; words of a fixed list may come from a variable."""
    for union in ("anyOf", "oneOf"):
        if len(schema.get(union, ())) == 1:
            only = schema[union][0]
            schema = only | {key: value for key, value in schema.items() if key != union}
    if "enum" in schema or (isinstance(schema.get("const"), str)):
        words = {key: schema.pop(key) for key in ("enum", "const", "type") if key in schema}
        schema = {"anyOf": [words, _VARIABLE]} | schema
    return schema


# Run as `python -m gateway.config.reference docs/configuration.md`; a test holds the file to what this says.

_SECTIONS: Final = ("server", "iam", "iam_shadow", "identity", "upstreams", "routes")
_HEAD: Final = """# Configuration

The configuration is the file `routes.yaml` and the folder `policies/` beside it. This page is generated from the schema
that the gateway uses for validation. `gateway schema` prints the schema. Editors can use `routes.schema.json`.

**YAML** is read as version 1.2. `true` and `false` are the only truth values: `on`, `yes`, `017`, `1:30` and `1_000`
are text. Duplicate keys, unknown keys, tags and several documents in one file are mistakes. Anchors and aliases work
within one file. Merge keys (`<<`) are not part of YAML 1.2: put what routes share into a policy.

**Variables** in values are replaced:

- `${VAR}` must be set. `${VAR:-default}` uses the default if the variable is not set or empty.
- `${file:/path}` is the file's text without the line break at its end.
- `$$` is a dollar sign. `$` before any character except `{` and `$` is a dollar sign too.

Variables are replaced after the file was parsed, so a value can't change the structure. Inside `{ }` and `[ ]` quote
them. If a key takes a number or a truth value, the text of a variable is read as one.

**Durations** have a unit: `250ms`, `2s`, `1m30s`, `1h`. **Sizes** have one too: `512B`, `64KiB`, `10MiB`, `1GiB`. Only
`0` needs no unit. It means no limit, where it is allowed. **Shares** are written `50%`. Relative paths of files start
at the folder of `routes.yaml`.

**Placeholders** in checks and in the paths of aggregates: `{method}`, `{path.NAME}`, `{route.id}`, `{route.path}` (the
template), `{subject.id}`, `{claim.NAME}`, `{query.NAME}`, `{header.NAME}`, and `{item.NAME}` in the check of a
navigation. They are filled in after the check was parsed. If a value is missing, repeated or over 1 KiB, the request
gets 400.

Different values always make different questions. So two placeholders in one text need text between them, and a value
that contains this text gets 400. Example: with `doc:{path.folder}:{path.name}` a folder can't contain `:`. Only the
last value may contain it, so put the value that may contain it last. A type that is filled in can't contain `:`.

All mistakes are reported at once, as `FILE:LINE:COL: error[id]: message`. `gateway validate` shows them. For a file
without mistakes it shows what every route does when IAM is down.
"""
_POLICIES: Final = """
## policies/NAME.yaml

A resilience policy: a named set of the keys below. A route uses it with `policy: NAME` and may override any key. The
route's keys override the policy's, and the policy's override the server's. Mappings are merged by key, lists are
replaced. A failure rule with another `degrade` than the policy's replaces the whole rule. A file with the name of a
built-in policy replaces that policy.
"""
Schema = dict[str, Any]


def reference() -> str:
    """The whole page."""
    schema = json_schema()
    page = _Page(schema)
    parts = [_HEAD, *_table("The top of the file", schema, schema)]
    for name in _SECTIONS:
        parts += page.section(name)
    policy = schema_of(PolicyKeys)
    parts += [_POLICIES, *_rows(policy, policy)]
    parts += [f"\nThe built-in policy `{name}`:\n\n```yaml\n{built_in_text(name)}```" for name in BUILT_IN_NAMES]
    parts += ["\n## Types\n", *_types(schema)]
    return "\n".join(parts).rstrip() + "\n"


class _Page:
    """Tables of a section's mappings, each told once and referred to afterwards."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._told: dict[str, str] = {}

    def section(self, name: str) -> Iterator[str]:
        label = name + {"upstreams": ".NAME", "routes": "[]"}.get(name, "")
        member = _resolved(self._schema["properties"][name], self._schema)
        yield from self._mapping(label, _resolved(_inner(member), self._schema))

    def _mapping(self, label: str, model: Schema) -> Iterator[str]:
        text = json.dumps(model, sort_keys=True)
        first = self._told.setdefault(text, label)
        if first != label:
            yield f"\n## `{label}`\n\nThe same keys as `{first}`."
            return
        yield from _table(f"`{label}`", model, self._schema)
        for key, member in model["properties"].items():
            for inner, nested in _models(f"{label}.{key}", member, self._schema):
                yield from self._mapping(inner, nested)


def _models(path: str, member: Schema, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The mappings with known keys that may stand at a key, with how they are reached."""
    target = _resolved(member, schema)
    if "properties" in target:
        yield path, target
    elif target.get("type") == "array":
        yield from _models(f"{path}[]", target["items"], schema)
    elif isinstance(target.get("additionalProperties"), dict):
        yield from _models(f"{path}.NAME", target["additionalProperties"], schema)
    else:
        found: dict[str, tuple[str, Schema]] = {}
        for choice in (*target.get("oneOf", ()), *target.get("anyOf", ())):
            for label, model in _models(path, choice, schema):
                found.setdefault(json.dumps(model, sort_keys=True), (label, model))
        yield from found.values()


def _table(title: str, model: Schema, schema: Schema) -> Iterator[str]:
    yield f"\n## {title}\n"
    if model.get("description"):
        yield f"{model['description']}\n"
    yield from _rows(model, schema)


def _rows(model: Schema, schema: Schema) -> Iterator[str]:
    if not model["properties"]:
        yield "It has no keys."
        return
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    needed = model.get("required", ())
    for key, member in model["properties"].items():
        default = "**required**" if key in needed else _default(member)
        meaning = member.get("description") or _resolved(member, schema).get("description", "")
        yield f"| `{key}` | {_cell(_type(member, schema))} | {default} | {_cell(meaning)} |"


def _default(member: Schema) -> str:
    value = member.get("default")
    if value is None or value == []:
        return ""
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _type(member: Schema, schema: Schema) -> str:
    if "$ref" in member:
        name = member["$ref"].rsplit("/", 1)[1]
        return "mapping" if "properties" in schema["$defs"][name] else name
    if "const" in member or "enum" in member:
        return " or ".join(f"`{value}`" for value in member.get("enum", [member.get("const")]))
    choices = [*member.get("oneOf", ()), *member.get("anyOf", ())]
    if choices:
        return " or ".join(dict.fromkeys(_type(each, schema) for each in choices if not _variable(each)))
    return _plain_type(member, schema)


def _plain_type(member: Schema, schema: Schema) -> str:
    if member.get("type") == "array":
        return f"list of {_type(member['items'], schema)}"
    if member.get("type") == "object":
        return "mapping"
    return {"string": "Text", "null": "`null`", "integer": "whole number"}.get(member.get("type", ""), "any value")


def _variable(member: Schema) -> bool:
    return set(member) == {"type", "pattern"} and member["pattern"].startswith(r"\$")


def _inner(member: Schema) -> Schema:
    inner = member.get("items") or member.get("additionalProperties")
    return inner if isinstance(inner, dict) else member


def _resolved(member: Schema, schema: Schema) -> Schema:
    target: Schema = schema["$defs"][member["$ref"].rsplit("/", 1)[1]] if "$ref" in member else member
    return target


def _types(schema: Schema) -> Iterator[str]:
    yield "| type | what it is |"
    yield "|---|---|"
    for name, model in sorted(schema["$defs"].items()):
        if "properties" not in model and "description" in model:
            yield f"| {name} | {_cell(model['description'])} |"


def main(arguments: list[str]) -> None:
    """Writes the page to the file that is named."""
    Path(arguments[0]).write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
