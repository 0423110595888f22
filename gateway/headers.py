"""Header fields on their way through: what is taken off, what is added (docs/errors.md).

Build, do not filter: to the upstream goes everything the client sent, less hop-by-hop fields (RFC 9110 section 7.6.1),
less what `Connection` names, less every name by which a gateway tells an upstream who is asking - in any case, and also
with `_` or `.` for `-`, because CGI-like servers read them alike. Then the gateway's own fields are added.

Rules: what `Connection` may name is limited, or a client could take the credential, the framing or the forwarding chain
off after the check. `content-length` and `transfer-encoding` are not carried over from a request: framing is made anew.
A value that was proven (the subject) is encoded, never passed as text. Cost: one pass, one look-up a field.

Deliberately absent: lists of fields that are let through. Unknown end-to-end fields pass, repeated ones stay apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from gateway.errors import GatewayError
from gateway.model.request import Header, Headers, Request, Subject
from gateway.model.settings import ServerSettings

CREDENTIALS: Final = frozenset({b"authorization", b"cookie"})
"""What an upstream with its own `auth` does not get from the caller."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_SHOWN: Final = HOP_BY_HOP | {b"x-request-id"}
_NEVER_NAMED: Final = frozenset({b"authorization", b"host", b"content-length", b"cookie", b"x-request-id"})
SPOOFABLE: Final = frozenset(
    {b"remote-user", b"forwarded", b"x-real-ip", b"proxy", b"x-rewrite-url", b"x-method-override"}
)
SPOOFABLE_PREFIXES: Final = (
    b"x-auth-",
    b"x-gateway-",
    b"x-authenticated-",
    b"x-user",
    b"x-remote-",
    b"x-forwarded-",
    b"x-original-",
    b"x-http-method",
)
# Made anew for the upstream, or meant for this listener alone.
_OURS: Final = frozenset({b"host", b"content-length", b"expect", b"http2-settings", b"x-request-id"})
_OUR_PREFIXES: Final = (b"proxy-", b"sec-websocket-")
_MADE_ANEW: Final = (
    b"x-auth-",
    b"x-gateway-",
    *(b"x-forwarded-" + part for part in (b"for", b"proto", b"host", b"port", b"prefix")),
)
_TRACE: Final = frozenset({b"traceparent", b"tracestate", b"baggage"})
_DASHED: Final = bytes.maketrans(b"_.", b"--")
_NOTHING: Final[frozenset[bytes]] = frozenset()
_VISIBLE: Final = "!\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"

# What only a trusted proxy can know and we cannot continue: the port that callers use, the prefix that it took off.
_PORT_FIELD, _PREFIX_FIELD = b"x-forwarded-port", b"x-forwarded-prefix"
_OUTER_FORMS: Final = {
    _PORT_FIELD: re.compile(rb"[0-9]{1,5}"),
    _PREFIX_FIELD: re.compile(rb"(?:/[A-Za-z0-9\-._~!$&'()*+;=:@%]+)+/?"),
}

_PASS, _DROP, _CONNECTION, _OUTER, _IF_TRUSTED, _IF_IDENTITY = range(6)
_REMEMBERED: Final = 4096
_LONGEST: Final = 64


@lru_cache(maxsize=1024)
def tells_who_asks(name: bytes) -> bool:
    """Whether a field of that lower-case name, or one that is read like it, is believed only from a gateway."""
    read_as = name.translate(_DASHED)
    return read_as in SPOOFABLE or read_as.startswith(SPOOFABLE_PREFIXES)


class HeaderRules:
    """What happens to a request field by name, for one configuration: made once, remembers each name's verdict."""

    __slots__ = ("_exact", "_identity_read_as", "_passes", "_prefixes", "verdicts", "via", "via_1_0")

    def __init__(self, settings: ServerSettings, identity: bytes | None = None) -> None:
        """`server.strip_request_headers` adds names; one that ends in `*` is a prefix.

        `identity`: the field, in lower case, in which a trusted proxy names the subject (`identity.header.name`).
        """
        self._identity_read_as = None if identity is None else identity.translate(_DASHED)
        extra = {name.lower().translate(_DASHED) for name in settings.strip_request_headers}
        prefixes = tuple(name[:-1] for name in extra if name.endswith(b"*"))
        self._exact = HOP_BY_HOP | SPOOFABLE | _OURS | {name for name in extra if not name.endswith(b"*")}
        self._prefixes = SPOOFABLE_PREFIXES + _OUR_PREFIXES + prefixes
        # Removed from everybody else, also where its name is one that is removed anyway. What is written anew is not.
        anew = HOP_BY_HOP | _OURS | (self._exact - SPOOFABLE)
        passes = identity not in anew and not (identity or b"").startswith(_OUR_PREFIXES + _MADE_ANEW + prefixes)
        self._passes = identity if passes else None
        self.verdicts: dict[bytes, int] = {}
        self.via = b"1.1 " + settings.name.encode("ascii")
        self.via_1_0 = b"1.0 " + settings.name.encode("ascii")

    def learn(self, name: bytes) -> int:
        """The verdict on a name not seen before; remembered if short and while there is room: clients choose names."""
        verdict = self._judge(name)
        if len(name) <= _LONGEST and len(self.verdicts) < _REMEMBERED:
            self.verdicts[name] = verdict
        return verdict

    def _judge(self, name: bytes) -> int:
        if name == b"connection":
            return _CONNECTION
        read_as = name.translate(_DASHED)
        if name == self._passes:
            return _IF_IDENTITY
        if read_as in self._exact:
            return _DROP
        if name in _OUTER_FORMS:
            return _OUTER
        if read_as in _TRACE:
            return _IF_TRUSTED if read_as == name else _DROP
        return _DROP if read_as == self._identity_read_as or read_as.startswith(self._prefixes) else _PASS


def upstream_request_headers(  # noqa: C901 - one pass for every request, where a call costs more than a branch
    request: Request,
    *,
    rules: HeaderRules,
    host: bytes | None,
    subject: Subject | None = None,
    traceparent: bytes | None = None,
    prefix: bytes | None = None,
    degraded: bytes | None = None,
    withhold: frozenset[bytes] = _NOTHING,
) -> Headers:
    """The header of the forwarded request, `host` first, without framing fields.

    `host`: the upstream's own, None keeps the caller's. `prefix`: what `strip_prefix` took off; a trusted proxy's
    own goes before it. `degraded`: the value of `X-Gateway-Degraded`. `withhold`: end-to-end fields not to pass on
    (CREDENTIALS). Raises `bad_request` if `Connection` names what it must not.
    """
    known, learn = rules.verdicts.get, rules.learn
    headers: Headers = [(b"host", request.host.encode("ascii") if host is None else host)]
    connection: list[bytes] = []
    outer: Headers = []
    believed: Headers = []
    for field in request.headers:
        name = field[0]
        verdict = known(name)
        if verdict is None:
            verdict = learn(name)
        if verdict == _PASS:
            headers.append(field)
        elif verdict == _CONNECTION:
            connection.append(field[1])
        elif verdict >= _OUTER and request.trusted:
            (outer if verdict == _OUTER else believed).append(field)
    if believed:
        headers += _believed(believed, subject, traceparent)
    named = (connection_options(connection) if connection else _NOTHING) | withhold
    if named:
        headers = [field for field in headers if field[0] not in named or field[0] == b"host"]
    _add_forwarded(headers, request, outer, prefix)
    headers.append((b"via", rules.via if request.http_version == "1.1" else rules.via_1_0))
    headers.append((b"x-request-id", request.request_id.encode("ascii")))
    if traceparent is not None:
        headers.append((b"traceparent", traceparent))
    if subject is not None and subject.identified:
        headers.append((b"x-auth-subject", visible(subject.id)))
        headers += subject.headers
    if degraded is not None:
        headers.append((b"x-gateway-degraded", degraded))
    return headers


def client_response_headers(headers: Headers, *, via: bytes, request_id: str) -> Headers:
    """The header of an upstream's response as the caller gets it: hop-by-hop off, `Via` and `X-Request-ID` added."""
    passed = [field for field in headers if field[0] not in _NOT_SHOWN]
    if len(passed) != len(headers):
        connection = [value for name, value in headers if name == b"connection"]
        named = _options(connection) if connection else _NOTHING
        passed = [field for field in passed if field[0] not in named]
    passed += ((b"via", via), (b"x-request-id", request_id.encode("ascii")))
    return passed


def connection_options(values: Iterable[bytes]) -> frozenset[bytes]:
    """The options of all `Connection` fields of a request, in lower case; `bad_request` for a name it must not have."""
    options = _options(values)
    for option in options:
        if option in _NEVER_NAMED or option.startswith(b"x-forwarded-"):
            raise GatewayError("bad_request", "The Connection field names a field that it must not name.")
    return options


def visible(value: str) -> bytes:
    """Text as visible ASCII: everything else, and `%`, percent-encoded as UTF-8, so that no two texts look alike."""
    return quote(value, safe=_VISIBLE).encode("ascii")


def _options(values: Iterable[bytes]) -> frozenset[bytes]:
    return frozenset(option.strip(b" \t").lower() for value in values for option in value.split(b","))


def _believed(fields: Headers, subject: Subject | None, traceparent: bytes | None) -> Headers:
    """Of what only a trusted proxy may say: its trace context, never beside our own; the identity, where it is one."""
    traces = _TRACE - {b"traceparent"} if traceparent is not None else _TRACE
    return [field for field in fields if (field[0] in traces if field[0] in _TRACE else subject is not None)]


def _add_forwarded(headers: Headers, request: Request, outer: Headers, prefix: bytes | None) -> None:
    """`X-Forwarded-*`: what a trusted proxy said continued, anybody else's begun anew."""
    if request.trusted:
        before = request.values(b"x-forwarded-for")
        chain = b", ".join([*before, request.peer.encode("ascii")])
        hosts = request.values(b"x-forwarded-host")
        headers += _forwarded(chain, request.scheme, hosts[0] if len(hosts) == 1 else request.host.encode("ascii"))
    else:
        headers += _begun_anew(request.peer, request.scheme, request.host)
    if outer:
        prefix = _continued(outer, headers, prefix)
    if prefix is not None:
        headers.append((_PREFIX_FIELD, prefix))


def outer_prefix(request: Request) -> bytes:
    """What a trusted proxy took off the path before us, without `/` at its end; empty if nothing."""
    values = request.values(_PREFIX_FIELD) if request.trusted else ()
    return values[0].rstrip(b"/") if len(values) == 1 and _OUTER_FORMS[_PREFIX_FIELD].fullmatch(values[0]) else b""


def _continued(outer: Headers, headers: Headers, prefix: bytes | None) -> bytes | None:
    """Add a trusted proxy's port as it is; the whole prefix, its own before ours. A field given twice says nothing."""
    names = [name for name, _ in outer]
    for name, value in outer:
        if names.count(name) > 1 or not _OUTER_FORMS[name].fullmatch(value):
            continue
        if name == _PORT_FIELD:
            headers.append((name, value))
        else:
            prefix = value.rstrip(b"/") + (prefix or b"")
    return prefix


def _forwarded(chain: bytes, scheme: str, host: bytes) -> tuple[Header, ...]:
    fields = ((b"x-forwarded-for", chain), (b"x-forwarded-proto", scheme.encode("ascii")))
    return (*fields, (b"x-forwarded-host", host)) if host else fields


@lru_cache(maxsize=1024)
def _begun_anew(peer: str, scheme: str, host: str) -> tuple[Header, ...]:
    """Nearly all requests come from a few addresses for a few hosts."""
    return _forwarded(peer.encode("ascii"), scheme, host.encode("ascii"))
