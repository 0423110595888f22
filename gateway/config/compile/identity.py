"""`identity` → Identity: exactly one way to learn who asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from gateway.config.addresses import parse_resource
from gateway.config.compile.outward import compile_url, warn_plain_http
from gateway.config.compile.world import World
from gateway.config.keys.identity import HeaderKeys, IdentityKeys, JwtKeys
from gateway.config.problems import near, quoted
from gateway.config.validate import Section
from gateway.model.settings import HeaderIdentity, Identity, JwtIdentity, OpaqueIdentity

KINDS: Final = ("jwt", "opaque", "header")
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
    if keys.jwt is not None:
        return _jwt(section, keys.jwt, world)
    return (
        OpaqueIdentity()
        if keys.header is None
        else _header(section, keys.header, world, trusted_proxies=trusted_proxies)
    )


def _exactly_one(section: Section[IdentityKeys], world: World, given: list[str]) -> None:
    found = f"; here are {' and '.join(given)}" if given else ""
    message = f"exactly one of jwt, opaque and header is needed{found}"
    mark = section.key(given[1]) if given else section.at()
    if given or section.sound():
        world.problems.error(mark, "one-identity", message)


def _jwt(section: Section[IdentityKeys], keys: JwtKeys, world: World) -> JwtIdentity | None:
    for index, algorithm in enumerate(keys.algorithms):
        _check_algorithm(section, world, index, algorithm)
    if (keys.jwks_url is None) == (keys.jwks_file is None):
        mark = section.key("jwt", "jwks_file") if keys.jwks_file else section.at("jwt")
        world.problems.error(mark, "one-key-source", "exactly one of jwks_url and jwks_file is needed")
        return None
    url = compile_url(section, world, parse_resource, "jwt", "jwks_url")
    if url is not None:
        warn_plain_http(section, world, url, "the keys that tokens are verified with come", "jwt", "jwks_url")
    return JwtIdentity(
        issuer=keys.issuer,
        audience=keys.audience,
        algorithms=tuple(dict.fromkeys(keys.algorithms)),
        jwks_url=url.text if url else None,
        jwks_file=_jwks_file(section, world),
        claims=tuple(dict.fromkeys(keys.claims)),
        leeway_s=keys.leeway,
        jwks_refresh_s=keys.jwks_refresh,
    )


def _jwks_file(section: Section[IdentityKeys], world: World) -> Path | None:
    mark = section.at("jwt", "jwks_file")
    path = world.file(section.node.get("jwt", "jwks_file"))
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


def _check_algorithm(section: Section[IdentityKeys], world: World, index: int, algorithm: str) -> None:
    mark = section.at("jwt", "algorithms", index)
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
