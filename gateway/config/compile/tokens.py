"""`identity.token` → places where a token is looked for."""

from __future__ import annotations

import re
from typing import Final

from gateway.config.compile.world import World
from gateway.config.keys.identity import IdentityKeys, TokenPlaceKeys
from gateway.config.problems import quoted
from gateway.config.validate import Section
from gateway.model.settings import HEADER_ONLY, TokenIn, TokenPlace

_NAME: Final = re.compile(r"[!#$&'*.^_`|~0-9A-Za-z-]+\Z")


def compile_places(section: Section[IdentityKeys], world: World) -> tuple[TokenPlace, ...]:
    """The places in order; what is wrong is noted."""
    if not section.sound("token"):
        return HEADER_ONLY
    if section.has("header") and section.has("token"):
        message = "a header of a trusted proxy is no token; token stands beside jwt, introspection or opaque"
        world.problems.error(section.key("token"), "unused-key", message)
    places: list[TokenPlace] = []
    for index, each in enumerate(section.keys.token):
        place = _place(section, world, index, each)
        if place is not None and place in places:
            world.problems.error(section.at("token", index), "same-place", "this place stands twice")
        elif place is not None:
            places.append(place)
    return tuple(places)


def _place(section: Section[IdentityKeys], world: World, index: int, each: str | TokenPlaceKeys) -> TokenPlace | None:
    if isinstance(each, str):
        return TokenPlace(TokenIn(str(each)))
    given = {kind: name for kind in TokenIn if (name := getattr(each, kind.value, None)) is not None}
    if len(given) != 1:
        world.problems.error(section.at("token", index), "one-place", "exactly one of cookie and query is needed")
        return None
    ((kind, name),) = given.items()
    if not _NAME.match(name):
        message = f"{quoted(name)}: a name is ASCII letters, digits and marks without spaces, =, ;, % and +"
        world.problems.error(section.at("token", index, kind.value), "bad-name", message)
        return None
    return TokenPlace(kind, str(name))
