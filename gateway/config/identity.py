"""`identity`: its keys, and `Identity` made of them: exactly one way to learn who asks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, Tag

from gateway.config.compile_context import CompileContext
from gateway.config.files import check_authorities
from gateway.config.keys import (
    Duration,
    DurationOrZero,
    FilePath,
    HeaderName,
    Keys,
    Maybe,
    Text,
    Word,
    by_shape,
    group,
    key,
    listing,
    optional,
    required,
)
from gateway.config.problems import near, quoted
from gateway.config.tree import Step
from gateway.config.upstreams import AuthKeys, compile_auth, compile_url, warn_plain_http
from gateway.config.validate import Section
from gateway.config.values import Url, parse_resource
from gateway.model.settings import (
    HEADER_ONLY,
    ClaimRules,
    ClientTls,
    HeaderIdentity,
    Identity,
    IntrospectionIdentity,
    JwtIdentity,
    JwtIssuer,
    OpaqueIdentity,
    TokenIn,
    TokenPlace,
)
from gateway.template import Template, TemplateError, parse

# `identity`: how the gateway learns who asks.

Audience = Annotated[
    Annotated[Text, Tag("<one>")] | Annotated[Annotated[list[Text], Field(min_length=1)], Tag("<several>")],
    by_shape("text or a list of texts is expected", one=str, several=list),
]


class SubjectKeys(Keys):
    """Who the subject is: templates in which `{claim.NAME}` is replaced by a claim."""

    type: Text = key("identity", "The type of the subject.")
    id: Text = key("{claim.sub}", "Its id.")


class IdentityTlsKeys(Keys):
    """TLS towards the issuer, for https://."""

    ca_file: Maybe[FilePath] = optional("The trusted certificate authorities, PEM. When left out: the system's.")


class ClaimKeys(Keys):
    """What is made of the claims of a good token."""

    subject: SubjectKeys = group(SubjectKeys, "Who the subject is.")
    claims: list[Text] = listing(
        "Claims that are sent to IAM as properties of the subject. A claim of exactly this name is used, otherwise "
        "the dotted path."
    )
    headers: dict[HeaderName, Text] = Field(
        default_factory=dict,
        description="Request headers with claims for the upstream. Their names begin with `X-Auth-`.",
    )
    required: dict[Text, Annotated[list[Text], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Claims (a list, or a text separated by spaces) and the values that each must contain; else 403.",
    )
    tls: IdentityTlsKeys = group(IdentityTlsKeys, "TLS, for https://.")


class JwtKeys(ClaimKeys):
    """Bearer tokens that the gateway verifies. Without `jwks_url` and `jwks_file` it uses OpenID discovery."""

    issuer: Text = required("The `iss` that a token must have.")
    audience: Audience = required("The `aud` that a token must have, or a list of which it must have one.")
    algorithms: Annotated[list[Text], Field(min_length=1)] = key(
        ["RS256", "ES256", "EdDSA"], "The accepted signature algorithms. All are asymmetric."
    )
    jwks_url: Maybe[Text] = optional("Where the issuer's keys are fetched.")
    jwks_file: Maybe[FilePath] = optional("The issuer's keys as a file.")
    leeway: DurationOrZero = key("30s", "How far clocks may differ when `exp` and `nbf` are checked.")
    jwks_refresh: Duration = key("10m", "How often the keys are fetched again.")


class IntrospectionKeys(ClaimKeys):
    """Opaque tokens that an authorization server checks (RFC 7662)."""

    url: Text = required("The introspection endpoint.")
    auth: Maybe[AuthKeys] = optional("The gateway's own credentials towards the endpoint.")
    cache: DurationOrZero = key("30s", "How long a good token is remembered, but never past its `exp`. 0s: not at all.")


class OpaqueKeys(Keys):
    """The gateway authenticates nobody. The bearer token itself is the subject, and IAM resolves it."""


class HeaderKeys(Keys):
    """A trusted proxy names the subject."""

    name: HeaderName = required("The header field with the subject's id.")


class TokenPlaceKeys(Keys):
    """A place that has a name. Exactly one."""

    cookie: Maybe[Text] = optional("The cookie of this name.")
    query: Maybe[Text] = optional("The query parameter of this name. It is removed before the target is matched.")


TokenPlaceText = Annotated[
    Annotated[Annotated[Literal["header", "websocket_protocol"], Word], Tag("<word>")]
    | Annotated[TokenPlaceKeys, Tag("<keys>")],
    by_shape("header, websocket_protocol, {cookie: NAME} or {query: NAME} is expected", word=str, keys=dict),
]

Jwt = Annotated[
    Annotated[JwtKeys, Tag("<one>")] | Annotated[Annotated[list[JwtKeys], Field(min_length=1)], Tag("<several>")],
    by_shape("a mapping, or a list of them, is expected", one=dict, several=list),
]


class IdentityKeys(Keys):
    """How the gateway finds out who the caller is. Exactly one of `jwt`, `introspection`, `opaque` and `header`."""

    jwt: Maybe[Jwt] = optional(
        "Bearer tokens that the gateway verifies. With several issuers, the token's `iss` chooses one."
    )
    introspection: Maybe[IntrospectionKeys] = optional("Bearer tokens that an authorization server checks.")
    opaque: Maybe[OpaqueKeys] = optional("The bearer token itself is the subject, and IAM resolves it: `opaque: {}`.")
    header: Maybe[HeaderKeys] = optional("A header field set by one of server.trusted_proxies.")
    token: Annotated[list[TokenPlaceText], Field(min_length=1)] = key(
        ["header"],
        "The places where the gateway looks for the token. The first place that has one is used. `header` is "
        "`Authorization: Bearer`, `websocket_protocol` is the last two items of `Sec-WebSocket-Protocol: …, bearer, "
        "TOKEN`.",
    )


# `identity.token` → places where a token is looked for.

_NAME: Final = re.compile(r"[!#$&'*.^_`|~0-9A-Za-z-]+\Z")


def compile_places(section: Section[IdentityKeys], world: CompileContext) -> tuple[TokenPlace, ...]:
    """The places in order; what is wrong is noted."""
    if not section.sound("token"):
        return HEADER_ONLY
    if section.has("header") and section.has("token"):
        message = "token is only for jwt, introspection and opaque; header has no token"
        world.problems.error(section.key("token"), "unused-key", message)
    places: list[TokenPlace] = []
    for index, each in enumerate(section.keys.token):
        place = _place(section, world, index, each)
        if place is not None and place in places:
            world.problems.error(section.at("token", index), "same-place", "this place is there twice")
        elif place is not None:
            places.append(place)
    return tuple(places)


def _place(
    section: Section[IdentityKeys], world: CompileContext, index: int, each: str | TokenPlaceKeys
) -> TokenPlace | None:
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


# What is made of claims → ClaimRules.

K = TypeVar("K", bound=ClaimKeys)

_FAMILY: Final = "x-auth-"
_OURS: Final = "x-auth-subject"
_SHOWABLE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")
"""What can stand in a quoted scope (RFC 6749 section 3.3)."""


def compile_claims(section: Section[K], world: CompileContext) -> ClaimRules:
    """What is made of claims; what is wrong is noted."""
    keys = section.keys
    return ClaimRules(
        subject_type=_template(section, world, "type", keys.subject.type),
        subject_id=_template(section, world, "id", keys.subject.id),
        claims=tuple(dict.fromkeys(keys.claims)),
        headers=_headers(section, world),
        required=_required(section, world),
    )


def _template(section: Section[K], world: CompileContext, name: str, text: str) -> Template:
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


def _headers(section: Section[K], world: CompileContext) -> tuple[tuple[bytes, str], ...]:
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


def _required(section: Section[K], world: CompileContext) -> tuple[tuple[str, tuple[str, ...]], ...]:
    for name, values in section.keys.required.items():
        for mark, text in ((section.key("required", name), name), (section.at("required", name), " ".join(values))):
            if not all(_SHOWABLE.match(word) for word in text.split(" ")):
                message = "names and values are visible ASCII without spaces, quotes and backslashes"
                world.problems.error(mark, "bad-value", message)
    return tuple((str(name), tuple(map(str, values))) for name, values in section.keys.required.items())


# `identity` → Identity: exactly one way to learn who asks.

KINDS: Final = ("jwt", "introspection", "opaque", "header")
_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
_SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512", "none"})
_NEVER_A_NAME: Final = frozenset(
    {"authorization", "cookie", "host", "content-length", "transfer-encoding", "connection"}
)


def compile_identity(
    section: Section[IdentityKeys], world: CompileContext, *, trusted_proxies: bool | None
) -> Identity | None:
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


def _exactly_one(section: Section[IdentityKeys], world: CompileContext, given: list[str]) -> None:
    found = f"; here are {' and '.join(given)}" if given else ""
    message = f"exactly one of jwt, introspection, opaque and header is needed{found}"
    mark = section.key(given[1]) if given else section.at()
    if given or section.sound():
        world.problems.error(mark, "one-identity", message)


def _jwt(section: Section[IdentityKeys], world: CompileContext, places: tuple[TokenPlace, ...]) -> JwtIdentity | None:
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
            world.problems.error(each.at("issuer"), "same-issuer", f"{quoted(each.keys.issuer)} is there twice")
        names.add(each.keys.issuer)
    sound = tuple(issuer for issuer in issuers if issuer is not None)
    return JwtIdentity(issuers=sound, places=places) if len(sound) == len(issuers) else None


def _issuer(section: Section[JwtKeys], world: CompileContext) -> JwtIssuer | None:
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


def _key_source(section: Section[JwtKeys], world: CompileContext) -> tuple[Url | None, bool]:
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


def _discoverable(section: Section[JwtKeys], world: CompileContext) -> bool:
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
    section: Section[IntrospectionKeys], world: CompileContext, places: tuple[TokenPlace, ...]
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


def _tls(section: Section[K], world: CompileContext) -> ClientTls:
    file = world.file(section.node.get("tls", "ca_file"))
    check_authorities(section.at("tls", "ca_file"), file, world.problems)
    return ClientTls(ca_file=file)


def _jwks_file(section: Section[JwtKeys], world: CompileContext) -> Path | None:
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


def _check_algorithm(section: Section[JwtKeys], world: CompileContext, index: int, algorithm: str) -> None:
    mark = section.at("algorithms", index)
    if algorithm in _SYMMETRIC:
        message = f"{quoted(algorithm)} is refused: only asymmetric algorithms keep the key with the issuer"
        world.problems.error(mark, "bad-algorithm", message)
    elif algorithm not in _ALGORITHMS:
        hint = near(algorithm, sorted(_ALGORITHMS)) or f"; known: {', '.join(sorted(_ALGORITHMS))}"
        world.problems.error(mark, "bad-algorithm", f"unknown algorithm {quoted(algorithm)}{hint}")


def _header(
    section: Section[IdentityKeys], keys: HeaderKeys, world: CompileContext, *, trusted_proxies: bool | None
) -> HeaderIdentity:
    if trusted_proxies is False:
        message = "header is only believed from server.trusted_proxies, which is empty"
        world.problems.error(section.key("header"), "trusted-proxies-needed", message)
    if world.decisions:
        message = "header cannot be used with server.decisions: who may ask there could name any subject"
        world.problems.error(section.key("header"), "misplaced-identity", message)
    if keys.name in _NEVER_A_NAME:
        message = f"{quoted(keys.name)} can't name the subject"
        world.problems.error(section.at("header", "name"), "bad-header-name", message)
    return HeaderIdentity(keys.name.encode())
