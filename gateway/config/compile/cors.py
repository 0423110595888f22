"""`cors` → Cors: origins as a browser sends them (RFC 6454, Fetch standard)."""

from __future__ import annotations

import re
from typing import Final

from gateway.config.compile.world import World
from gateway.config.keys.routes import CorsKeys, RouteKeys
from gateway.config.validate import Section
from gateway.model.route import ALWAYS_EXPOSED, Cors

_KNOWN: Final = frozenset(name.lower() for name in ALWAYS_EXPOSED)
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?\Z")


def compile_cors(section: Section[RouteKeys], keys: CorsKeys, world: World) -> Cors:
    """What cross-origin callers may do; what is wrong is noted."""
    origins = frozenset(origin.lower() for origin in keys.origins)
    for index, origin in enumerate(keys.origins):
        mark = section.at("cors", "origins", index)
        if origin == "*" and len(origins) > 1:
            world.problems.error(mark, "bad-origin", "* stands alone")
        elif origin != "*" and not _ORIGIN.match(origin.lower()):
            message = "an origin is scheme://host or scheme://host:port, without a slash at its end"
            world.problems.error(mark, "bad-origin", message)
    if keys.credentials and "*" in origins:
        message = "credentials can't be allowed to every origin: name them"
        world.problems.error(section.at("cors", "credentials"), "cors-credentials", message)
    exposed = ", ".join(dict.fromkeys((*ALWAYS_EXPOSED, *(name for name in keys.expose if name not in _KNOWN))))
    return Cors(origins=origins, max_age_s=keys.max_age, credentials=keys.credentials, exposed=exposed.encode("ascii"))
