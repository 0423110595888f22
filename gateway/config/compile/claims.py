"""What is made of claims → ClaimRules."""

from __future__ import annotations

import re
from typing import Final, TypeVar

from gateway.config.compile.world import World
from gateway.config.keys.identity import ClaimKeys
from gateway.config.problems import near, quoted
from gateway.config.validate import Section
from gateway.model.settings import ClaimRules
from gateway.template import Template, TemplateError, parse

K = TypeVar("K", bound=ClaimKeys)

_FAMILY: Final = "x-auth-"
_OURS: Final = "x-auth-subject"
_SHOWABLE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")
"""What can stand in a quoted scope (RFC 6749 section 3.3)."""


def compile_claims(section: Section[K], world: World) -> ClaimRules:
    """What is made of claims; what is wrong is noted."""
    keys = section.keys
    return ClaimRules(
        subject_type=_template(section, world, "type", keys.subject.type),
        subject_id=_template(section, world, "id", keys.subject.id),
        claims=tuple(dict.fromkeys(keys.claims)),
        headers=_headers(section, world),
        required=_required(section, world),
    )


def _template(section: Section[K], world: World, name: str, text: str) -> Template:
    mark = section.at("subject", name)
    try:
        template = parse(str(text))
    except TemplateError as error:
        world.problems.error(mark, "bad-placeholder", f"{quoted(text)}: {error}; known here: {{claim.NAME}}")
        return Template((str(text),))
    for placeholder in template.placeholders:
        if placeholder.kind != "claim":
            hint = near(str(placeholder), ["{claim.sub}"]) or "; known here: {claim.NAME}"
            world.problems.error(mark, "bad-placeholder", f"{placeholder}: a subject is made of claims{hint}")
    if name == "id" and not template.placeholders:
        message = "an id without {claim.NAME} would be the same for every caller"
        world.problems.error(mark, "same-subject", message)
    return template


def _headers(section: Section[K], world: World) -> tuple[tuple[bytes, str], ...]:
    found: dict[str, str] = {}
    for name, claim in section.keys.headers.items():
        written = next((key for key in section.node.get("headers").members() if key.lower() == name), name)  # type: ignore[union-attr]  # the keys are of it
        mark = section.key("headers", written)
        if name == _OURS:
            world.problems.error(mark, "bad-header-name", "X-Auth-Subject is the gateway's own: it names the subject")
        elif not name.startswith(_FAMILY):
            message = f"{quoted(written)}: a header for a claim begins with X-Auth-, which no caller can set"
            world.problems.error(mark, "bad-header-name", message)
        found[name] = str(claim)
    return tuple((name.encode("ascii"), claim) for name, claim in found.items())


def _required(section: Section[K], world: World) -> tuple[tuple[str, tuple[str, ...]], ...]:
    for name, values in section.keys.required.items():
        for mark, text in ((section.key("required", name), name), (section.at("required", name), " ".join(values))):
            if not all(_SHOWABLE.match(word) for word in text.split(" ")):
                message = "names and values are visible ASCII without spaces, quotes and backslashes"
                world.problems.error(mark, "bad-value", message)
    return tuple((str(name), tuple(map(str, values))) for name, values in section.keys.required.items())
