"""What `routes.yaml` says besides routes, compiled. Durations in seconds (`_s`), sizes in bytes. Made in `config`."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.model.route import BreakerPolicy, RetryPolicy, Route
from gateway.template import Placeholder, Template

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: a host name or IP address without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """TLS towards an upstream or IAM. Paths are absolute. `verify: false` is a warning at load."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """TLS on the public listener. With `client_ca_file` a client certificate is required."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLogSettings:
    """Where decisions are written, and how much of them. `path` is absolute. `permits`: the share of permits, 0 to 1.

    `subject`: plain | hash | none; `values`: plain | hash, of what checks have from headers and queries. `properties`:
    whether a plain subject has those that IAM is told.
    """

    path: Path
    permits: float = 1.0
    subject: str = "plain"
    properties: bool = False
    values: str = "plain"
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The public and admin listeners and the limits of everything (docs/configuration.md)."""

    listen: Address = Address("127.0.0.1", 8080)
    admin: Address = Address("127.0.0.1", 9901)
    decisions: Address | None = None
    """The decision listener; None: there is none."""
    name: str = "edge"
    deadline_s: float = 10.0
    trusted_proxies: tuple[Network, ...] = ()
    max_concurrency: int = 2000
    max_body: int = 64 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    drain_notice_s: float | None = None
    """None: 0 on a terminal, else 5 and at most half of `drain_timeout_s`."""
    drain_timeout_s: float = 15.0
    tls: ServerTls | None = None
    max_connections: int = 10_000
    max_connections_per_client: int = 1000
    max_headers: int = 100
    max_uri: int = 8 * 1024
    min_body_rate: int = 1024
    """Bytes a second, measured over 10 s; 0 = off."""
    max_streams: int = 10_000
    max_token: int = 8 * 1024
    strip_request_headers: frozenset[bytes] = frozenset()
    admin_token: str | None = field(default=None, repr=False)
    admin_hosts: frozenset[str] = frozenset()
    access_log: str | None = None
    """json | text | off; None: text on a terminal, else json."""
    log: str | None = None
    """text | json, of the lines on stderr; None: text."""
    decision_log: DecisionLogSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IamTimeouts:
    """`total_s` bounds one question with its retries, queueing aside."""

    connect_s: float = 1.0
    read_s: float = 2.0
    total_s: float = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSettings:
    """Where permits are kept over a restart. `path` is absolute; without a `key` the file is not authenticated."""

    path: Path
    every_s: float = 10.0
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """`ttl_s` 0: every request asks. Permits are kept `max_stale_s` for `degrade: stale` all the same."""

    ttl_s: float = 0.0
    negative_ttl_s: float = 0.0
    max_stale_s: float = 300.0
    max_entries: int = 100_000
    snapshot: SnapshotSettings | None = None


class IamApi(enum.StrEnum):
    """The protocol spoken to IAM (docs/authorization.md)."""

    AUTHZEN = "authzen"
    JSON = "json"
    OPA = "opa"
    EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class BearerAuth:
    """A fixed bearer token towards an upstream or IAM."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """RFC 7617 towards an upstream or IAM."""

    username: str
    password: str = field(repr=False)


class ClientAuthentication(enum.StrEnum):
    """How a client shows a token server who it is (RFC 6749 section 2.3.1, RFC 7523 section 2.2)."""

    BASIC = "basic"
    POST = "post"
    PRIVATE_KEY_JWT = "private_key_jwt"


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth2ClientCredentials:
    """RFC 6749 section 4.4: fetched once, shared, renewed before it expires.

    `client_secret` is empty exactly for `private_key_jwt`, which signs with `key_file`.
    """

    token_url: str
    client_id: str
    client_secret: str = field(default="", repr=False)
    scope: str | None = None
    audience: str | None = None
    resource: str | None = None
    client_auth: ClientAuthentication = ClientAuthentication.BASIC
    key_file: Path | None = None
    key_id: str | None = None


UpstreamAuth = BearerAuth | BasicAuth | OAuth2ClientCredentials


@dataclass(frozen=True, slots=True, kw_only=True)
class IamSettings:
    """How IAM is asked. `urls` are in order of preference, without a trailing slash; none exactly for `embedded`.

    `hedge_s`: how long one url may be silent before the next is asked too; None: never.
    """

    api: IamApi = IamApi.AUTHZEN
    urls: tuple[str, ...] = ()
    hedge_s: float | None = None
    auth: UpstreamAuth | None = field(default=None, repr=False)
    timeout: IamTimeouts = IamTimeouts()
    retry: RetryPolicy = RetryPolicy(attempts=2, backoff_s=0.05)
    breaker: BreakerPolicy = BreakerPolicy(open_for_s=5.0, open_for_max_s=60.0, probe_s=1.0)
    batch_max_size: int = 50
    max_concurrency: int = 8
    max_queue: int = 10_000
    cache: CacheSettings = CacheSettings()
    tls: ClientTls = ClientTls()
    discovery: bool = False
    batch_path: str | None = ""
    """Empty: the protocol's own; None: there is none. The same of `single_path`."""
    single_path: str = ""
    opa_path: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    deny_reasons: bool = False


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """A second IAM, asked beside the first. `sample`: the share of decisions that it is asked about, above 0 to 1."""

    iam: IamSettings
    sample: float = 1.0


class TokenIn(enum.StrEnum):
    """Where a token can stand in a request."""

    HEADER = "header"
    COOKIE = "cookie"
    QUERY = "query"
    WEBSOCKET_PROTOCOL = "websocket_protocol"


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """One place where a token is looked for; `name` is that of the cookie or the query parameter."""

    kind: TokenIn
    name: str = ""


HEADER_ONLY: Final = (TokenPlace(TokenIn.HEADER),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """What is made of the claims of a good token.

    `subject_type` and `subject_id` hold `{claim.NAME}` only. `claims` become properties of the subject. `headers`:
    request header (lower case) and claim. `required`: claim and the values that it must hold.
    """

    subject_type: Template = Template(("identity",))
    subject_id: Template = Template((Placeholder("claim", "sub"),))
    claims: tuple[str, ...] = ()
    headers: tuple[tuple[bytes, str], ...] = ()
    required: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtIssuer:
    """Whose tokens are verified here (RFC 7519, RFC 8725). Algorithms are pinned.

    At most one of `jwks_url` and `jwks_file`; with neither the keys are found by OpenID discovery.
    """

    issuer: str
    audience: tuple[str, ...]
    algorithms: tuple[str, ...]
    jwks_url: str | None = None
    jwks_file: Path | None = None
    rules: ClaimRules = ClaimRules()
    leeway_s: float = 30.0
    jwks_refresh_s: float = 600.0
    tls: ClientTls = ClientTls()


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtIdentity:
    """Tokens verified here; the token's `iss` chooses the issuer."""

    issuers: tuple[JwtIssuer, ...]
    places: tuple[TokenPlace, ...] = HEADER_ONLY


@dataclass(frozen=True, slots=True, kw_only=True)
class IntrospectionIdentity:
    """Opaque tokens that an authorization server is asked about (RFC 7662)."""

    url: str
    auth: UpstreamAuth | None = field(default=None, repr=False)
    cache_s: float = 30.0
    rules: ClaimRules = ClaimRules()
    tls: ClientTls = ClientTls()
    places: tuple[TokenPlace, ...] = HEADER_ONLY


@dataclass(frozen=True, slots=True)
class OpaqueIdentity:
    """Nobody is authenticated here: the bearer token is the subject and IAM resolves it."""

    places: tuple[TokenPlace, ...] = HEADER_ONLY


@dataclass(frozen=True, slots=True)
class HeaderIdentity:
    """A trusted proxy names the subject in the header `name` (lower case)."""

    name: bytes


Identity = JwtIdentity | IntrospectionIdentity | OpaqueIdentity | HeaderIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How `/health/systems` asks one system. `path` None: a TCP connect. `interval_s`: between looks at each origin."""

    path: str | None = None
    interval_s: float = 10.0
    timeout_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """One upstream: one or several origins (`http://host:port`, nothing after the port) and their shared limits."""

    name: str
    urls: tuple[str, ...]
    max_connections: int = 256
    max_pending: int = 1024
    idle_timeout_s: float = 60.0
    max_connection_age_s: float = 600.0
    tls: ClientTls = ClientTls()
    health: HealthCheck = HealthCheck()
    auth: UpstreamAuth | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All of one `routes.yaml` and its policies: immutable, swapped as a whole on reload.

    `hash` is of the content of every file read, `files` are those files, `contents` what was in them (also secrets).
    `warnings`: `FILE:LINE:COL: warning[id]: …`.
    `access_policies` is the folder `policies/access` where it exists, `access_texts` what it said: name and content of
    each file that decides (policies and entities), in order.
    """

    server: ServerSettings
    iam: IamSettings
    identity: Identity
    upstreams: Mapping[str, UpstreamSettings]
    routes: tuple[Route, ...]
    iam_shadow: ShadowSettings | None = None
    hash: str = ""
    file: Path = Path("routes.yaml")
    files: tuple[Path, ...] = ()
    contents: Mapping[Path, bytes] = field(default_factory=dict, repr=False, compare=False)
    access_policies: Path | None = None
    access_texts: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()
