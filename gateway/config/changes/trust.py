"""Who and what is believed: networks, issuers, audiences, certificates, and for how long an answer is.

Rule: what is added to such a list is weaker, what is taken away is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gateway.config.changes.change import Change, Lines, Said
from gateway.config.units import format_duration
from gateway.model.settings import (
    ClaimRules,
    ClientTls,
    HeaderIdentity,
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


def identity_weakened(old: Identity, new: Identity) -> Lines:
    """Who may say who the caller is."""
    if isinstance(new, HeaderIdentity):
        if not isinstance(old, HeaderIdentity):
            yield Said("identity", "the subject comes from a header now")
        elif old.name != new.name:
            yield Said("identity", f"the subject comes from the header {new.name.decode('latin-1')} now")
    if isinstance(new, OpaqueIdentity) and not isinstance(old, OpaqueIdentity):
        yield Said("identity", "tokens are not verified here any more")
    if isinstance(old, JwtIdentity) and isinstance(new, JwtIdentity):
        before = {issuer.issuer: issuer for issuer in old.issuers}
        if any(issuer.issuer not in before for issuer in new.issuers):
            yield Said("identity", "tokens of another issuer are accepted")
        for issuer in new.issuers:
            yield from _issuer(before.get(issuer.issuer, issuer), issuer)
    if isinstance(old, IntrospectionIdentity) and isinstance(new, IntrospectionIdentity):
        yield from _claims(old.rules, new.rules)
        yield from _certificate("of the introspection endpoint", old.tls, new.tls, "identity")
        if new.cache_s > old.cache_s:
            longer = format_duration(new.cache_s)
            yield Said("identity", f"tokens that were revoked are accepted for up to {longer}")


def _issuer(old: JwtIssuer, new: JwtIssuer) -> Lines:
    if not set(new.audience) <= set(old.audience):
        yield Said("identity", "tokens of another audience are accepted")
    if more := sorted(set(new.algorithms) - set(old.algorithms)):
        yield Said("identity", f"tokens signed with {', '.join(more)} are accepted")
    if new.leeway_s > old.leeway_s:
        yield Said("identity", f"expired tokens are accepted for {format_duration(new.leeway_s)}")
    yield from _claims(old.rules, new.rules)
    yield from _certificate(f"of {new.issuer}", old.tls, new.tls, "identity")


def _claims(old: ClaimRules, new: ClaimRules) -> Lines:
    required = dict(new.required)
    for name, values in old.required:
        lost = [value for value in values if value not in required.get(name, ())]
        if lost:
            yield Said("identity", f"the claim {name} need not hold {', '.join(lost)}")


def iam_weakened(old: IamSettings, new: IamSettings) -> Lines:
    """How long IAM's answers are believed, and who may be IAM."""
    if old.tls.verify and not new.tls.verify:
        yield Said("iam.tls", "IAM's certificate is not verified")
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
    if gone := sorted(old.strip_request_headers - new.strip_request_headers):
        names = ", ".join(name.decode("latin-1") for name in gone)
        yield Said("server.strip_request_headers", f"callers' {names} goes to upstreams")
    if old.tls is not None and new.tls is None:
        yield Said("server.tls", "the public listener speaks plain HTTP")
    elif old.tls and new.tls and old.tls.client_ca_file and not new.tls.client_ca_file:
        yield Said("server.tls", "callers need no certificate")


def upstreams_weakened(old: Mapping[str, UpstreamSettings], new: Mapping[str, UpstreamSettings]) -> Iterator[Change]:
    """Upstreams that need not show who they are any more."""
    for name, settings in new.items():
        for said in _certificate("", old[name].tls, settings.tls, f"upstreams.{name}.tls") if name in old else ():
            yield Change(f"upstream {name}", said.field, said.text, weaker=True)


def _certificate(whose: str, old: ClientTls, new: ClientTls, field: str) -> Lines:
    if old.verify and not new.verify:
        yield Said(field, f"the certificate {whose} is not verified".replace("  ", " "))


def _wider(old: Sequence[Network], new: Sequence[Network]) -> list[str]:
    """The new networks that are in none of the old ones."""
    return [str(network) for network in new if not any(_within(network, wide) for wide in old)]


def _within(network: Network, wide: Network) -> bool:
    if network.version != wide.version:
        return False
    return int(wide.network_address) <= int(network.network_address) and int(network.broadcast_address) <= int(
        wide.broadcast_address
    )
