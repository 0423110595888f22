"""What two configurations decide differently, and which of it is weaker: asks less, or answers more without IAM.

`weakened` is what a reload logs; `differences` is what `gateway diff` prints. Weaker is: a check, a method or a route
that needs less; a public route under a guarded path; a rule that degrades more; a raised `ttl` or `max_stale`; a trust
list that is wider. Not weaker: an added guarded route, and changed limits and timeouts. What the policies decide is not
evaluated: that they have changed is told, and `gateway policy test` and `gateway replay` tell the rest.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.config.masking import masked
from gateway.config.route_changes import EVERYWHERE, Change, Lines, Said, routes_weakened
from gateway.config.values import format_duration
from gateway.model.route import IamFailureMode
from gateway.model.settings import (
    HEADER_ONLY,
    ClaimRules,
    ClientTls,
    Configuration,
    HeaderIdentity,
    IamApi,
    IamSettings,
    Identity,
    IntrospectionIdentity,
    JwtIdentity,
    JwtIssuer,
    Network,
    OpaqueIdentity,
    ServerSettings,
    UpstreamSettings,
)

# What else differs: told, and not judged weaker. Compared as operators see it, so no secret is in it.

_SECTIONS: Final = ("server", "iam", "iam_shadow", "identity", "upstreams")
_NOT_MEANT: Final = frozenset({"location", "fingerprint", "source", "segments", "id"})
_MOST: Final = 120
Seen = Collection[tuple[str, str]]


def other_changes(old: Configuration, new: Configuration, told: Seen) -> Iterator[Change]:
    """Changes of which `told` (where, field) does not tell already."""
    before, after = masked(old), masked(new)
    yield from _routes(before["routes"], after["routes"], told)
    for section in _SECTIONS:
        for path, was, is_ in _leaves(before[section], after[section], ()):
            if not _is_told(section, path, told):
                yield Change(section, path[0] if path else section, _worded(path, was, is_))


def _is_told(section: str, path: tuple[str, ...], told: Seen) -> bool:
    """Whether a weaker change was about this key of the section."""
    where = f"upstream {path[0]}" if section == "upstreams" else EVERYWHERE
    key = ".".join((section, *path))
    return any(told_where == where and key.startswith(field) for told_where, field in told)


def _routes(old: list[dict[str, Any]], new: list[dict[str, Any]], told: Seen) -> Iterator[Change]:
    before, after = ({route["id"]: route for route in routes} for routes in (old, new))
    for id_, route in after.items():
        if id_ not in before:
            yield Change(id_, "", f"is new: {route['path']}, {_asked(route)}")
    for id_, route in before.items():
        if id_ not in after:
            yield Change(id_, "", f"is gone: {route['path']}")
            continue
        for path, was, is_ in _leaves(route, after[id_], ()):
            if (id_, path[0]) not in told:
                yield Change(id_, path[0], _worded(path, was, is_))


def _asked(route: Mapping[str, Any]) -> str:
    """What a new route asks, in short."""
    kinds = {access["kind"] for access in route["access"].values()}
    checks = sorted({check for access in route["access"].values() for check in access["checks"]})
    return ", ".join(checks) if kinds == {"checks"} else " and ".join(sorted(kinds))


def _leaves(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The smallest members that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name not in _NOT_MEANT:
                yield from _leaves(old.get(name), new.get(name), (*path, str(name)))
    elif old != new:
        yield path, old, new


def _worded(path: tuple[str, ...], old: Any, new: Any) -> str:
    return f"{'.'.join(path)} is {_short(new)}, was {_short(old)}"


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST else text[:_MOST] + "…"


# Policies of the embedded IAM. They are compared, not evaluated: of a new permit nobody knows here what it permits.


def policies_changed(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[str]:
    """What may permit more. A policy that only moved, or is only laid out anew, is the same."""
    before, after = _statements(old), _statements(new)
    yield from _only_in(after, before, "permit", "this permit is new or changed")
    yield from _only_in(before, after, "forbid", "this forbid is gone or changed")
    for name in sorted(old.keys() | new.keys()):
        if name.endswith(".json") and old.get(name) != new.get(name):
            yield f"policies/access/{name}: the entities have changed, so policies may permit more"


def policies_tightened(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[str]:
    """What can only permit less."""
    before, after = _statements(old), _statements(new)
    yield from _only_in(after, before, "forbid", "this forbid is new or changed")
    yield from _only_in(before, after, "permit", "this permit is gone or changed")


def _only_in(
    these: Mapping[tuple[str, ...], str], those: Mapping[tuple[str, ...], str], effect: str, says: str
) -> Iterator[str]:
    for tokens, place in these.items():
        if tokens not in those and _effect(tokens) == effect:
            yield f"policies/access/{place}: {says}"


def _statements(files: Mapping[str, bytes]) -> dict[tuple[str, ...], str]:
    """Where each policy stands, by its tokens."""
    from gateway.pdp.policies import statements  # heavy: Cedar, which most commands do not need

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


# Who and what is believed: networks, issuers, audiences, certificates, and for how long an answer is.
#
# Rule: what is added to such a list is weaker, what is taken away is not.


def identity_weakened(old: Identity, new: Identity) -> Lines:
    """Who may say who the caller is."""
    if isinstance(new, HeaderIdentity):
        if not isinstance(old, HeaderIdentity):
            yield Said("identity", "the subject comes from a header now")
        elif old.name != new.name:
            yield Said("identity", f"the subject comes from the header {new.name.decode('latin-1')} now")
        return
    if isinstance(new, OpaqueIdentity) and not isinstance(old, OpaqueIdentity):
        yield Said("identity", "tokens are not verified here any more")
    if isinstance(new, IntrospectionIdentity):
        yield from _introspection(old, new)
    if isinstance(new, JwtIdentity):
        yield from _issuers(old, new)
    known = HEADER_ONLY if isinstance(old, HeaderIdentity) else old.places
    if more := [place for place in new.places if place not in known]:
        shown = ", ".join(f"{place.kind} {place.name}".strip() for place in more)
        yield Said("identity", f"a token is also taken out of {shown}")


def _introspection(old: Identity, new: IntrospectionIdentity) -> Lines:
    for rules in _rules_of(old):
        yield from _claims(rules, new.rules)
    if isinstance(old, JwtIdentity) or (isinstance(old, IntrospectionIdentity) and old.url != new.url):
        yield Said("identity", f"tokens are accepted on the word of {new.url}")
    if isinstance(old, IntrospectionIdentity):
        yield from _certificate("the certificate of the introspection endpoint", old.tls, new.tls, "identity")
        if new.cache_s > old.cache_s:
            longer = format_duration(new.cache_s)
            yield Said("identity", f"tokens that were revoked are accepted for up to {longer}")


def _issuers(old: Identity, new: JwtIdentity) -> Lines:
    before = {issuer.issuer: issuer for issuer in old.issuers} if isinstance(old, JwtIdentity) else {}
    if isinstance(old, IntrospectionIdentity) or (before and any(one.issuer not in before for one in new.issuers)):
        yield Said("identity", "tokens of another issuer are accepted")
    for issuer in new.issuers:
        if issuer.issuer in before:
            yield from _issuer(before[issuer.issuer], issuer)
        else:
            for rules in _rules_of(old):
                yield from _claims(rules, issuer.rules)


def _rules_of(identity: Identity) -> list[ClaimRules]:
    if isinstance(identity, JwtIdentity):
        return [issuer.rules for issuer in identity.issuers]
    return [identity.rules] if isinstance(identity, IntrospectionIdentity) else []


def _issuer(old: JwtIssuer, new: JwtIssuer) -> Lines:
    if not set(new.audience) <= set(old.audience):
        yield Said("identity", "tokens of another audience are accepted")
    if more := sorted(set(new.algorithms) - set(old.algorithms)):
        yield Said("identity", f"tokens signed with {', '.join(more)} are accepted")
    if (old.jwks_url, old.jwks_file) != (new.jwks_url, new.jwks_file):
        place = new.jwks_url or new.jwks_file or "where its discovery document says"
        yield Said("identity", f"the keys of {new.issuer} come from another place: {place}")
    if new.leeway_s > old.leeway_s:
        yield Said("identity", f"expired tokens are accepted for {format_duration(new.leeway_s)}")
    yield from _claims(old.rules, new.rules)
    yield from _certificate(f"the certificate of {new.issuer}", old.tls, new.tls, "identity")


def _claims(old: ClaimRules, new: ClaimRules) -> Lines:
    required = dict(new.required)
    for name, values in old.required:
        lost = [value for value in values if value not in required.get(name, ())]
        if lost:
            yield Said("identity", f"the claim {name} need not hold {', '.join(lost)}")
    if (old.subject_type, old.subject_id) != (new.subject_type, new.subject_id):
        shown = "".join(map(str, new.subject_id.parts))
        yield Said("identity", f"the subject is {shown} now, as {''.join(map(str, new.subject_type.parts))}")


def iam_weakened(old: IamSettings, new: IamSettings) -> Lines:
    """How long IAM's answers are believed, and who may be IAM."""
    yield from _certificate("IAM's certificate", old.tls, new.tls, "iam.tls")
    if old.cache.snapshot and new.cache.snapshot and old.cache.snapshot.key and not new.cache.snapshot.key:
        yield Said("iam.cache.snapshot", "the file of permits is not authenticated any more")
    if new.cache.ttl_s > old.cache.ttl_s:
        yield Said("iam.cache.ttl_s", f"permits are used for {format_duration(new.cache.ttl_s)} without asking again")
    if new.cache.max_stale_s > old.cache.max_stale_s:
        yield Said(
            "iam.cache.max_stale_s", f"permits can stand in for IAM for up to {format_duration(new.cache.max_stale_s)}"
        )


def server_weakened(old: ServerSettings, new: ServerSettings) -> Lines:
    """Whose word about callers is believed, and what callers and operators need."""
    if more := _wider(old.trusted_proxies, new.trusted_proxies):
        yield Said("server.trusted_proxies", f"{', '.join(more)} may say who the caller is")
    if more := sorted(new.admin_hosts - old.admin_hosts):
        yield Said("server.admin_hosts", f"the admin listener answers to {', '.join(more)}")
    if old.admin_token and not new.admin_token:
        yield Said("server.admin_token", "the admin listener asks for no token")
    if gone := [name for name in sorted(old.strip_request_headers) if not _stripped(name, new.strip_request_headers)]:
        names = ", ".join(name.decode("latin-1") for name in gone)
        yield Said("server.strip_request_headers", f"callers' {names} goes to upstreams")
    if old.tls is not None and new.tls is None:
        yield Said("server.tls", "the public listener speaks plain HTTP")
    elif old.tls and new.tls and old.tls.client_ca_file and not new.tls.client_ca_file:
        yield Said("server.tls", "callers need no certificate")


def _stripped(name: bytes, rules: Collection[bytes]) -> bool:
    """Whether everything that this rule takes off is taken off by one of those."""
    return any(name == rule or (rule.endswith(b"*") and name.startswith(rule[:-1])) for rule in rules)


def upstreams_weakened(old: Mapping[str, UpstreamSettings], new: Mapping[str, UpstreamSettings]) -> Iterator[Change]:
    """Upstreams that need not show who they are any more."""
    for name, settings in new.items():
        for said in (
            _certificate("the certificate", old[name].tls, settings.tls, f"upstreams.{name}.tls") if name in old else ()
        ):
            yield Change(f"upstream {name}", said.field, said.text, weaker=True)


def _certificate(which: str, old: ClientTls, new: ClientTls, field: str) -> Lines:
    if old.verify and not new.verify:
        yield Said(field, f"{which} is not verified")
    elif new.verify and old.ca_file is not None and new.ca_file is None:
        yield Said(field, f"{which} may be of any public authority")


def _wider(old: Sequence[Network], new: Sequence[Network]) -> list[str]:
    """The new networks that are in none of the old ones. Two halves are as good as the whole."""
    four = ipaddress.collapse_addresses([each for each in old if isinstance(each, ipaddress.IPv4Network)])
    six = ipaddress.collapse_addresses([each for each in old if isinstance(each, ipaddress.IPv6Network)])
    wide: list[Network] = [*four, *six]
    return [str(network) for network in new if not any(_within(network, each) for each in wide)]


def _within(network: Network, wide: Network) -> bool:
    if network.version != wide.version:
        return False
    return int(wide.network_address) <= int(network.network_address) and int(network.broadcast_address) <= int(
        wide.broadcast_address
    )


__all__ = ["Change", "differences", "weakened"]


def weakened(old: Configuration, new: Configuration) -> list[str]:
    """One line for each way in which the gateway became weaker: `inventory: GET is public, was checks`.

    Policies that may permit more are among them.
    """
    lines = [str(change) for change in _weaker(old, new)]
    at = sum(line.startswith(EVERYWHERE) for line in lines)
    return lines[:at] + list(_policies(old, new)) + lines[at:]


def differences(old: Configuration, new: Configuration) -> list[Change]:
    """Everything that differs, weaker first, in an order that does not depend on the order in the files."""
    weaker = _weaker(old, new)
    policies = [
        *(Change("policies", "policies", f"policies changed: {line}", unjudged=True) for line in _policies(old, new)),
        *(Change("policies", "policies", f"policies changed: {line}") for line in _tightened(old, new)),
    ]
    return [*weaker, *policies, *other_changes(old, new, {(change.where, change.field) for change in weaker})]


def _weaker(old: Configuration, new: Configuration) -> list[Change]:
    found = [
        *_named(EVERYWHERE, identity_weakened(old.identity, new.identity)),
        *_named(EVERYWHERE, iam_weakened(old.iam, new.iam)),
        *_named(EVERYWHERE, server_weakened(old.server, new.server)),
        *upstreams_weakened(old.upstreams, new.upstreams),
        *routes_weakened(old, new),
    ]
    return list(dict.fromkeys(found))


def _named(where: str, lines: Lines) -> Iterator[Change]:
    return (Change(where, said.field, said.text, weaker=True) for said in lines)


def _policies(old: Configuration, new: Configuration) -> Iterator[str]:
    """Policies that may permit more; nothing where they do not decide."""
    if _decides(old) and _decides(new):
        yield from policies_changed(dict(old.access_texts), dict(new.access_texts))


def _tightened(old: Configuration, new: Configuration) -> Iterator[str]:
    if _decides(old) and _decides(new):
        yield from policies_tightened(dict(old.access_texts), dict(new.access_texts))


def _decides(configuration: Configuration) -> bool:
    rules = (rule for route in configuration.routes for rule in route.on_iam_failure.values())
    return configuration.iam.api is IamApi.EMBEDDED or any(rule.mode is IamFailureMode.LOCAL for rule in rules)
