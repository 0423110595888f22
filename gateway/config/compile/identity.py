"""`identity` → Identity: exactly one way to learn who asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, TypeVar

from gateway.config.addresses import Url, parse_resource
from gateway.config.compile.auth import compile_auth
from gateway.config.compile.claims import compile_claims
from gateway.config.compile.outward import compile_url, warn_plain_http
from gateway.config.compile.tokens import compile_places
from gateway.config.compile.world import World
from gateway.config.keys.identity import ClaimKeys, HeaderKeys, IdentityKeys, IntrospectionKeys, JwtKeys
from gateway.config.problems import near, quoted
from gateway.config.tls_files import check_authorities
from gateway.config.tree import Step
from gateway.config.validate import Section
from gateway.model.settings import (
    ClientTls,
    HeaderIdentity,
    Identity,
    IntrospectionIdentity,
    JwtIdentity,
    JwtIssuer,
    OpaqueIdentity,
    TokenPlace,
)

K = TypeVar("K", bound=ClaimKeys)

KINDS: Final = ("jwt", "introspection", "opaque", "header")
_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
_SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512", "none"})
_NEVER_A_NAME: Final = frozenset(
    {"authorization", "cookie", "host", "content-length", "transfer-encoding", "connection"}
)


def compile_identity(section: Section[IdentityKeys], world: World, *, trusted_proxies: bool | None) -> Identity | None:
    """How callers are known. `trusted_proxies`: there are some; None where that is unknown."""
    given = [kind for kind in KINDS if section.has(kind)]
    if len(given) != 1:
        _exactly_one(section, world, given)
        return None
    if not section.sound(given[0]):
        return None
    keys = section.keys
    places = compile_places(section, world)
    if keys.jwt is not None:
        return _jwt(section, world, places)
    if keys.introspection is not None:
        return _introspection(section.inner(keys.introspection, "introspection"), world, places)
    if keys.header is not None:
        return _header(section, keys.header, world, trusted_proxies=trusted_proxies)
    return OpaqueIdentity(places)


def _exactly_one(section: Section[IdentityKeys], world: World, given: list[str]) -> None:
    found = f"; here are {' and '.join(given)}" if given else ""
    message = f"exactly one of jwt, introspection, opaque and header is needed{found}"
    mark = section.key(given[1]) if given else section.at()
    if given or section.sound():
        world.problems.error(mark, "one-identity", message)


def _jwt(section: Section[IdentityKeys], world: World, places: tuple[TokenPlace, ...]) -> JwtIdentity | None:
    keys = section.keys.jwt
    several: list[tuple[JwtKeys, tuple[Step, ...]]] = (
        [(each, ("jwt", index)) for index, each in enumerate(keys)] if isinstance(keys, list) else []
    )
    if isinstance(keys, JwtKeys):
        several = [(keys, ("jwt",))]
    sections = [section.inner(each, *path) for each, path in several]
    issuers = [_issuer(each, world) for each in sections]
    names: set[str] = set()
    for each in sections:
        if each.keys.issuer in names:
            world.problems.error(each.at("issuer"), "same-issuer", f"{quoted(each.keys.issuer)} stands twice")
        names.add(each.keys.issuer)
    sound = tuple(issuer for issuer in issuers if issuer is not None)
    return JwtIdentity(issuers=sound, places=places) if len(sound) == len(issuers) else None


def _issuer(section: Section[JwtKeys], world: World) -> JwtIssuer | None:
    keys = section.keys
    for index, algorithm in enumerate(keys.algorithms):
        _check_algorithm(section, world, index, algorithm)
    url, sound = _key_source(section, world)
    if not sound:
        return None
    return JwtIssuer(
        issuer=keys.issuer,
        audience=tuple(dict.fromkeys([keys.audience] if isinstance(keys.audience, str) else keys.audience)),
        algorithms=tuple(dict.fromkeys(keys.algorithms)),
        jwks_url=url.text if url else None,
        jwks_file=_jwks_file(section, world),
        rules=compile_claims(section, world),
        leeway_s=keys.leeway,
        jwks_refresh_s=keys.jwks_refresh,
        tls=_tls(section, world),
    )


def _key_source(section: Section[JwtKeys], world: World) -> tuple[Url | None, bool]:
    """Where the keys are fetched, None for a file and for discovery; and whether that can be."""
    keys = section.keys
    if keys.jwks_url is not None and keys.jwks_file is not None:
        message = "at most one of jwks_url and jwks_file; with neither the keys are found by OpenID discovery"
        world.problems.error(section.key("jwks_file"), "one-key-source", message)
        return None, False
    if keys.jwks_url is not None:
        url = compile_url(section, world, parse_resource, "jwks_url")
        if url is not None:
            warn_plain_http(section, world, url, "the keys that tokens are verified with come", "jwks_url")
        return url, url is not None
    return None, keys.jwks_file is not None or _discoverable(section, world)


def _discoverable(section: Section[JwtKeys], world: World) -> bool:
    """Whether the issuer is a URL at which its metadata can be asked for."""
    try:
        url = parse_resource(section.keys.issuer)
    except ValueError as error:
        message = f"without jwks_url and jwks_file the keys are found by OpenID discovery at the issuer: {error}"
        world.problems.error(section.at("issuer"), "one-key-source", message)
        return False
    if "?" in url.text:
        world.problems.error(section.at("issuer"), "bad-url", "an issuer has no query (OpenID Connect Discovery)")
        return False
    warn_plain_http(section, world, url, "the keys that tokens are verified with come", "issuer")
    return True


def _introspection(
    section: Section[IntrospectionKeys], world: World, places: tuple[TokenPlace, ...]
) -> IntrospectionIdentity | None:
    url = compile_url(section, world, parse_resource, "url")
    if url is None:
        return None
    warn_plain_http(section, world, url, "callers' tokens go", "url")
    return IntrospectionIdentity(
        url=url.text,
        auth=compile_auth(section, section.keys.auth, world, [url]),
        cache_s=section.keys.cache,
        rules=compile_claims(section, world),
        tls=_tls(section, world),
        places=places,
    )


def _tls(section: Section[K], world: World) -> ClientTls:
    file = world.file(section.node.get("tls", "ca_file"))
    check_authorities(section.at("tls", "ca_file"), file, world.problems)
    return ClientTls(ca_file=file)


def _jwks_file(section: Section[JwtKeys], world: World) -> Path | None:
    mark = section.at("jwks_file")
    path = world.file(section.node.get("jwks_file"))
    text = None if path is None else world.files.read_text(mark, str(path))
    if text is not None and not _is_key_set(text):
        world.problems.error(mark, "bad-key-set", 'the file is not a JSON Web Key Set: {"keys": […]}')
    return path


def _is_key_set(text: str) -> bool:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and isinstance(document.get("keys"), list)


def _check_algorithm(section: Section[JwtKeys], world: World, index: int, algorithm: str) -> None:
    mark = section.at("algorithms", index)
    if algorithm in _SYMMETRIC:
        message = f"{quoted(algorithm)} is refused: only asymmetric algorithms keep the key with the issuer"
        world.problems.error(mark, "bad-algorithm", message)
    elif algorithm not in _ALGORITHMS:
        hint = near(algorithm, sorted(_ALGORITHMS)) or f"; known: {', '.join(sorted(_ALGORITHMS))}"
        world.problems.error(mark, "bad-algorithm", f"unknown algorithm {quoted(algorithm)}{hint}")


def _header(
    section: Section[IdentityKeys], keys: HeaderKeys, world: World, *, trusted_proxies: bool | None
) -> HeaderIdentity:
    if trusted_proxies is False:
        message = "header is only believed from server.trusted_proxies, which is empty"
        world.problems.error(section.key("header"), "trusted-proxies-needed", message)
    if world.decisions:
        message = "header does not go with server.decisions: whoever may ask there could name any subject"
        world.problems.error(section.key("header"), "misplaced-identity", message)
    if keys.name in _NEVER_A_NAME:
        message = f"{quoted(keys.name)} can't name the subject"
        world.problems.error(section.at("header", "name"), "bad-header-name", message)
    return HeaderIdentity(keys.name.encode())
