"""Draft → the text of a commented routes.yaml, and the first access policies beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.starter.draft import Draft, DraftRoute

# The first access policies, for a starter whose gateway decides by itself: a reader, a writer, and cases.

EMBEDDED: Final = "embedded"
"""Stands where else the URL of IAM stands."""
_FOLDER: Final = Path("policies/access")
_POLICIES: Final = """\
// Who may do what. Nothing is permitted unless a policy here permits it.
// A route asks "{method} route:{route.id}": may this subject do METHOD on this route?
permit (principal in Role::"reader", action in [Action::"GET", Action::"HEAD"], resource);
permit (principal in Role::"writer", action, resource);
"""
_CASES: Final = """\
# What the policies must answer. `gateway policy test` asks them.
[[case]]
why = "readers read"
subject = "bob"
check = "GET route:{route}"
allow = true

[[case]]
why = "readers change nothing"
subject = "bob"
check = "DELETE route:{route}"
allow = false

[[case]]
why = "writers change things"
subject = "alice"
check = "DELETE route:{route}"
allow = true
"""
_MEMBERS: Final = {"alice": "writer", "bob": "reader"}


def policy_files(draft: Draft) -> dict[Path, str]:
    """The files beside routes.yaml, by path. Alice is a writer, Bob a reader."""
    roles = [_entity("Role", role) for role in sorted(set(_MEMBERS.values()))]
    people = [_entity("Identity", name, role) for name, role in _MEMBERS.items()]
    lines = ",\n ".join(json.dumps(entity) for entity in [*roles, *people])
    return {
        _FOLDER / "starter.cedar": _POLICIES,
        _FOLDER / "entities.json": f"[{lines}]\n",
        _FOLDER / "starter.cases.toml": _CASES.format(route=draft.routes[0].id),
    }


def _entity(kind: str, name: str, role: str = "") -> dict[str, object]:
    parents = [{"type": "Role", "id": role}] if role else []
    return {"uid": {"type": kind, "id": name}, "attrs": {}, "parents": parents}


_HEAD = """\
# yaml-language-server: $schema=./routes.schema.json
# `gateway schema > routes.schema.json` writes the schema for your editor. `gateway validate` checks this file.
version: 1

server:
  listen: 127.0.0.1:8080         # where callers connect
  admin: 127.0.0.1:9901          # health, metrics and status page: for operators only
{trusted}
"""
_IAM = """\
iam:
  api: authzen                   # or json, opa, embedded
  url: {iam}
  # token: ${{IAM_TOKEN}}          # the bearer token that IAM asks for
  timeout: {{connect: 1s, read: 2s, total: 2500ms}}

identity:
  # Nobody is authenticated here: the bearer token is the subject, and IAM resolves it.
  opaque: {{}}
  # To verify tokens here instead:
  # jwt: {{issuer: https://idp.example, audience: platform}}

upstreams:
"""
_EMBEDDED = """\
iam: {api: embedded}             # the policies in policies/access decide

identity:
  header: {name: X-User}         # your login proxy sets it. It is believed only from trusted_proxies
  # To verify tokens here instead:
  # jwt: {issuer: https://idp.example, audience: platform}

upstreams:
"""
_NO_PROXY = "  # trusted_proxies: [10.0.0.0/8]  # proxies in front whose X-Forwarded-* are believed\n"
_THIS_MACHINE = "  trusted_proxies: [127.0.0.0/8]  # your login proxy. For a start: whoever is on this machine\n"
_ROUTES = """
# Every route asks IAM: may this subject do METHOD on this route? Others: public, authenticated, your own checks.
# While IAM cannot answer, a route fails closed (503 with Retry-After), unless on_iam_failure says otherwise.
routes:
"""
_RULE = """\
    # Reading goes on for a minute for those who were permitted before IAM failed:
    # on_iam_failure: {degrade: stale, max_stale: 60s}
"""


def starter(draft: Draft, iam: str) -> str:
    """A routes.yaml that validates. `iam` is the URL of the decision point, or EMBEDDED."""
    here = iam == EMBEDDED
    lines = [_HEAD.format(trusted=_THIS_MACHINE if here else _NO_PROXY)]
    lines.append(_EMBEDDED if here else _IAM.format(iam=_scalar(iam)))
    lines += [f"  {name}: {_urls(urls)}\n" for name, urls in draft.upstreams.items()]
    lines.append(_ROUTES)
    for index, route in enumerate(draft.routes):
        lines += _route(route, with_rule=index == 0)
    lines += [f"# left out: {line}\n" for line in draft.left_out]
    return "".join(lines)


def _urls(urls: list[str]) -> str:
    if len(urls) == 1:
        return f"{{url: {_scalar(urls[0])}}}"
    return f"{{urls: [{', '.join(map(_scalar, urls))}]}}"


def _route(route: DraftRoute, *, with_rule: bool) -> Iterator[str]:
    yield f"  - id: {_scalar(route.id)}\n"
    if route.host:
        yield f"    host: {_scalar(route.host)}\n"
    yield f"    path: {_scalar(route.path)}\n"
    if route.methods:
        yield f"    methods: [{', '.join(route.methods)}]\n"
    yield f"    upstream: {route.upstream}\n"
    if route.strip_prefix:
        yield f"    strip_prefix: {_scalar(route.strip_prefix)}\n"
    yield '    authorize: ["{method} route:{route.id}"]\n'
    if with_rule:
        yield _RULE


def _scalar(text: str) -> str:
    """As YAML: a JSON string is one; `$` begins a variable in routes.yaml."""
    return json.dumps(text.replace("$", "$$"), ensure_ascii=False)
