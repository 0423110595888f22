"""Checks as they are written: `"<action> <type>:<id>"` or the same as mappings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from gateway.config.keys.base import Keys, Maybe, by_shape, optional, required
from gateway.config.keys.types import JsonObject, Text, Word


class CheckActionKeys(Keys):
    """What is to be done."""

    name: Text = required("The action's name; placeholders are filled in.")
    properties: Maybe[JsonObject] = optional("Further properties; placeholders in their texts are filled in.")


class CheckResourceKeys(Keys):
    """To what it is to be done."""

    type: Text = required("The resource's type; placeholders are filled in.")
    id: Text = required("The resource's id; placeholders are filled in.")
    properties: Maybe[JsonObject] = optional("Further properties; placeholders in their texts are filled in.")


class CheckKeys(Keys):
    """A check as AuthZEN names its parts."""

    action: CheckActionKeys = required("What is to be done.")
    resource: CheckResourceKeys = required("To what it is to be done.")
    context: Maybe[JsonObject] = optional("Circumstances; placeholders in their texts are filled in.")


Check = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[CheckKeys, Tag("<keys>")],
    by_shape(
        'a check is text like "read system:inventory" (quoted where it starts with a brace), or a mapping of action '
        "and resource",
        text=str,
        keys=dict,
    ),
]
Checks = Annotated[list[Check], Field(min_length=1, max_length=1000)]
AccessWord = Annotated[Literal["public", "authenticated"], Word]
_MESSAGE = 'public, authenticated or a list of checks like ["read system:inventory"] is expected'
MethodAccess = Annotated[
    Annotated[AccessWord, Tag("<word>")] | Annotated[Checks, Tag("<checks>")], by_shape(_MESSAGE, word=str, checks=list)
]
Authorize = Annotated[
    Annotated[AccessWord, Tag("<word>")]
    | Annotated[Checks, Tag("<checks>")]
    | Annotated[Annotated[dict[str, MethodAccess], Field(min_length=1)], Tag("<methods>")],
    by_shape(_MESSAGE + ", or a mapping of methods to these", word=str, checks=list, methods=dict),
]
