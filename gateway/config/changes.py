"""What a new configuration weakens: routes that ask less, or answer more when IAM can't, than before.

A route that is gone or new is compared with the one that its path now belongs to, or belonged to: taking a strict route
out of the way of a looser one weakens too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.config.units import format_duration
from gateway.model.route import Access, AccessKind, AggregateAction, IamFailureMode, IamFailureRule, Route, Segment
from gateway.model.settings import Configuration, HeaderIdentity, IamApi, IamSettings, Identity, JwtIdentity, JwtIssuer
from gateway.pdp.statements import statements

_STRICT: Final = (AccessKind.PUBLIC, AccessKind.AUTHENTICATED, AccessKind.CHECKS)
_GRANTS: Final = (
    IamFailureMode.FAIL_CLOSED,
    IamFailureMode.STALE,
    IamFailureMode.LOCAL,
    IamFailureMode.FALLBACK,
    IamFailureMode.ALLOW,
)
_ADMITTED: Final = ("allow_encoded_slashes", "allow_empty_segments", "allow_path_parameters")


def weakened(old: Configuration, new: Configuration) -> list[str]:
    """One line for each way in which a route became weaker: `inventory: GET is public, was checks`."""
    before = {route.id: route for route in old.routes}
    after = {route.id for route in new.routes}
    lines = [f"every route: {line}" for line in (*_identity(old.identity, new.identity), *_iam(old.iam, new.iam))]
    lines += _policies(dict(old.access_texts), dict(new.access_texts)) if _decides(old) and _decides(new) else ()
    for route in new.routes:
        was = before.get(route.id) or covering(old.routes, route)
        lines += [f"{route.id}: {line}" for line in (_route(was, route) if was else ())]
    for gone in (route for route in old.routes if route.id not in after):
        heir = covering(new.routes, gone)
        if heir is not None:
            lines += [f"{gone.id}: is gone, {heir.id} takes its path: {line}" for line in _route(gone, heir)]
    return list(dict.fromkeys(lines))


def _identity(old: Identity, new: Identity) -> Iterator[str]:
    if isinstance(new, HeaderIdentity) and not isinstance(old, HeaderIdentity):
        yield "the subject comes from a header now"
    if isinstance(old, JwtIdentity) and isinstance(new, JwtIdentity):
        before = {issuer.issuer: issuer for issuer in old.issuers}
        if any(issuer.issuer not in before for issuer in new.issuers):
            yield "tokens of another issuer are accepted"
        for issuer in new.issuers:
            yield from _issuer(before.get(issuer.issuer, issuer), issuer)


def _issuer(old: JwtIssuer, new: JwtIssuer) -> Iterator[str]:
    if not set(new.audience) <= set(old.audience):
        yield "tokens of another audience are accepted"
    if more := sorted(set(new.algorithms) - set(old.algorithms)):
        yield f"tokens signed with {', '.join(more)} are accepted"
    if new.leeway_s > old.leeway_s:
        yield f"expired tokens are accepted for {format_duration(new.leeway_s)}"
    required = dict(new.rules.required)
    for name, values in old.rules.required:
        if not set(values) <= set(required.get(name, ())):
            yield f"the claim {name} need not hold {', '.join(values)}"


def _iam(old: IamSettings, new: IamSettings) -> Iterator[str]:
    if old.tls.verify and not new.tls.verify:
        yield "IAM's certificate is not verified"
    if new.cache.ttl_s > old.cache.ttl_s:
        yield f"permits are used for {format_duration(new.cache.ttl_s)} without asking again"


def _decides(configuration: Configuration) -> bool:
    """Whether the embedded policies decide anything."""
    rules = (rule for route in configuration.routes for rule in route.on_iam_failure.values())
    return configuration.iam.api is IamApi.EMBEDDED or any(rule.mode is IamFailureMode.LOCAL for rule in rules)


def _policies(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[str]:
    """What may allow more. A policy that only moved, or is only laid out anew, is the same."""
    before, after = _statements(old), _statements(new)
    for text, place in after.items():
        if text not in before and _effect(text) == "permit":
            yield f"policies/access/{place}: this permit is new or changed"
    for text, place in before.items():
        if text not in after and _effect(text) == "forbid":
            yield f"policies/access/{place}: this forbid is gone or changed"
    for name in sorted(old.keys() | new.keys()):
        if name.endswith(".json") and old.get(name) != new.get(name):
            yield f"policies/access/{name}: the entities have changed, so policies may permit more"


def _statements(files: Mapping[str, bytes]) -> dict[tuple[str, ...], str]:
    """Where each policy stands, by its tokens."""
    found = {}
    for name, content in files.items():
        text = content.decode("utf-8", "replace")
        for statement in statements(text) if name.endswith(".cedar") else ():
            line = text.count("\n", 0, statement.start) + 1
            found[tuple(token.text for token in statement.tokens)] = f"{name}:{line}"
    return found


def _effect(tokens: tuple[str, ...]) -> str:
    """`permit` or `forbid`: the first of these words that no annotation's name or text is."""
    return next(
        (
            token
            for index, token in enumerate(tokens)
            if token in ("permit", "forbid") and (index == 0 or tokens[index - 1] != "@")
        ),
        "",
    )


def _route(old: Route, new: Route) -> Iterator[str]:
    for method in sorted(new.methods):
        was = old.access.get(method)
        if was is None:
            yield f"{method} is allowed"
            continue
        yield from _access(method, was, new.access[method])
        yield from _rule(method, old.on_iam_failure[method], new.on_iam_failure[method])
    yield from _parts(old, new)
    for name in _ADMITTED:
        if getattr(new, name) and not getattr(old, name):
            yield f"{name} is on"
    if old.recheck_s and (new.recheck_s or float("inf")) > old.recheck_s:
        yield "open streams are checked less often"


def _access(method: str, old: Access, new: Access) -> Iterator[str]:
    if _STRICT.index(new.kind) < _STRICT.index(old.kind):
        yield f"{method} is {new.kind}, was {old.kind}"
    elif lost := _lost(old, new):
        yield f"{method} no longer asks {', '.join(lost)}"


def _lost(old: Access, new: Access) -> list[str]:
    kept = {check.source for check in new.checks}
    return [check.source for check in old.checks if check.source not in kept]


def _rule(method: str, old: IamFailureRule, new: IamFailureRule) -> Iterator[str]:
    if _GRANTS.index(new.mode) > _GRANTS.index(old.mode):
        yield f"{method} is {new.mode} while IAM can't answer, was {old.mode}"
    elif new.mode is old.mode and new.max_stale_s > old.max_stale_s:
        yield f"{method} is stale for up to {format_duration(new.max_stale_s)}, was {format_duration(old.max_stale_s)}"


def _parts(old: Route, new: Route) -> Iterator[str]:
    if not isinstance(old.action, AggregateAction) or not isinstance(new.action, AggregateAction):
        return
    before = {part.name: part.access for part in old.action.parts}
    for part in new.action.parts:
        was = before.get(part.name)
        lost = _lost(was, part.access or Access(AccessKind.AUTHENTICATED)) if was else []
        if lost:
            yield f"{part.name} no longer asks {', '.join(lost)}"


def covering(routes: tuple[Route, ...], route: Route) -> Route | None:
    """Of `routes` the most specific one that a target of `route` would belong to."""
    found = [other for other in routes if other.host in (None, route.host) and _covers(other.segments, route.segments)]
    return max(found, key=lambda other: (other.host is not None, _rank(other.segments)), default=None)


def _covers(wide: tuple[Segment, ...], narrow: tuple[Segment, ...]) -> bool:
    for index, segment in enumerate(wide):
        if segment.rest:
            return True
        if index >= len(narrow) or narrow[index].rest:
            return False
        if segment.literal is not None and segment.literal != narrow[index].literal:
            return False
    return len(wide) == len(narrow)


def _rank(segments: tuple[Segment, ...]) -> list[int]:
    return [2 if segment.literal is not None else 1 if segment.param else 0 for segment in segments] + [1]
