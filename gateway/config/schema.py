"""The JSON Schema of routes.yaml, for editors: the key models with what the library adds to them smoothed away.

Keys that may be left out but not be empty appear without `null`; values may be `${…}` wherever a scalar stands, as
the types say. What depends on several keys at once is for `gateway validate`.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.config.keys.base import Keys
from gateway.config.keys.routes import PartKeys, RouteKeys, RoutesFile

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
