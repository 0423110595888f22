"""`server`: its keys, and `ServerSettings` made of them. The admin listener off loopback needs a token."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

from gateway.config.compile_context import CompileContext
from gateway.config.files import check_authorities, check_pair
from gateway.config.keys import (
    Count,
    Duration,
    DurationOrZero,
    FilePath,
    Flag,
    HeaderName,
    Keys,
    Maybe,
    Name,
    RequiredSecret,
    Secret,
    Size,
    SizeOrZero,
    SomeOrNone,
    Text,
    Word,
    key,
    listing,
    optional,
    required,
)
from gateway.config.validate import Section
from gateway.config.values import host_name, is_loopback, parse_address, parse_network
from gateway.model.settings import Address, DecisionLogSettings, Network, ServerSettings, ServerTls

# `server`: the listeners and the limits of everything that goes through them.


class ServerTlsKeys(Keys):
    """TLS on the public listener. The gateway reads the files again when they are renewed."""

    cert_file: FilePath = required("The certificate chain, PEM.")
    key_file: FilePath = required("Its private key, PEM.")
    client_ca_file: Maybe[FilePath] = optional("Clients must present a certificate of these authorities.")


class DecisionsKeys(Keys):
    """The decision listener, for another proxy that forwards requests itself (docs/decisions.md)."""

    listen: Text = required("Where the other proxy asks: HOST:PORT. Only `trusted_proxies` may ask.")


class DecisionLogKeys(Keys):
    """One line for each decision, in a file (docs/evidence.md)."""

    path: FilePath = required("The file, with mode 0600. To rotate it, rename it and send SIGHUP.")
    permits: SomeOrNone = key(
        "all",
        "Which permits are written: all, none, or a share like 1%. Denials and unknown answers are always written.",
    )
    subject: Annotated[Literal["plain", "hash", "none"], Word] = key(
        "plain", "How a line names the subject. An opaque token is always hashed."
    )
    values: Annotated[Literal["plain", "hash"], Word] = key(
        "plain", "How a line shows values that checks take from `{header.NAME}` and `{query.NAME}`."
    )
    properties: Flag = key(False, "Whether a line has the properties of the subject that IAM gets (`claims`).")
    key: Maybe[RequiredSecret] = optional("The key of the hashes. Required if anything is hashed.")


class ServerKeys(Keys):
    """The public listener, the admin listener and their limits."""

    listen: Text = key(
        "127.0.0.1:8080", "The address for callers: HOST:PORT or [IPv6]:PORT. Port 0 takes any free port."
    )
    admin: Text = key(
        "127.0.0.1:9901",
        "The address for health, metrics and the status page: HOST:PORT. It differs from the public listener. If it "
        "is not on loopback, it needs admin_token.",
    )
    decisions: Maybe[DecisionsKeys] = optional(
        "The decision listener: another proxy asks here and forwards the request itself. When left out: none."
    )
    name: Name = key("edge", "The gateway's name in Via and Proxy-Status.")
    deadline: Duration = key("10s", "The deadline of a route if neither the route nor its policy sets one.")
    trusted_proxies: list[Text] = listing(
        "The gateway trusts X-Forwarded-*, X-Request-ID and traceparent from these CIDRs. When left out: none."
    )
    max_concurrency: Count = key(2000, "The most requests in flight. Further requests get 503 overloaded.")
    max_body: SizeOrZero = key("64MiB", "The largest request body. 0 means no limit. A route may set its own.")
    max_header_bytes: Size = key("32KiB", "The largest request head. A larger one gets 431.")
    header_timeout: Duration = key(
        "10s", "The time for a request head: from accept for the first head, from its first byte for each later head."
    )
    idle_timeout: Duration = key("75s", "How long a connection may be idle between requests.")
    drain_notice: Maybe[DurationOrZero] = optional(
        "How long a stopping gateway still accepts new connections. It is not ready any more, so load balancers can "
        "notice. When left out: 0 on a terminal, otherwise 5s, but at most half of drain_timeout."
    )
    drain_timeout: DurationOrZero = key(
        "15s", "How long a stopping gateway waits for requests in flight, after drain_notice."
    )
    tls: Maybe[ServerTlsKeys] = optional("TLS on the public listener. Without it the listener speaks plain HTTP.")
    max_connections: Count = key(
        10000,
        "The most connections on the public listener, counted from accept. A further one gets an error and is closed "
        "immediately.",
    )
    max_connections_per_client: Count = key(
        1000, "Of these, connections from one IPv4 address or IPv6 /64. Trusted proxies have no such limit."
    )
    max_headers: Count = key(100, "The most header fields in one request.")
    max_uri: Size = key("8KiB", "The longest request target. A longer one gets 414.")
    min_body_rate: SizeOrZero = key(
        "1KiB",
        "The lowest rate of a request body, per second, measured over 10 s. A slower body gets 408. 0 turns the limit "
        "off.",
    )
    max_streams: Count = key(10000, "The most event streams and WebSockets. They do not count in max_concurrency.")
    max_token: Size = key("8KiB", "The longest token. A longer one gets 431.")
    strip_request_headers: list[HeaderName] = listing(
        "More header fields to remove from every request. Some are always removed."
    )
    admin_token: Maybe[Secret] = optional("The bearer token that the admin listener requires. When left out: none.")
    admin_hosts: list[Text] = listing("More values of Host that the admin listener accepts.")
    access_log: Maybe[Annotated[Literal["json", "text", "off"], Word]] = optional(
        "json, text or off. When left out: text on a terminal, otherwise json."
    )
    log: Maybe[Annotated[Literal["text", "json"], Word]] = optional(
        "The form of the lines on stderr: text or json. When left out: text."
    )
    decision_log: Maybe[DecisionLogKeys] = optional("A log of decisions. When left out: none.")


# `server` → ServerSettings. The admin listener off loopback needs a token.

_NOWHERE: Final = Address("127.0.0.1", 0)
_SAME_NAME: Final = (
    "name",
    "max_concurrency",
    "max_body",
    "max_header_bytes",
    "max_connections",
    "max_connections_per_client",
    "max_headers",
    "max_uri",
    "min_body_rate",
    "max_streams",
    "max_token",
    "admin_token",
    "access_log",
    "log",
)


def compile_server(section: Section[ServerKeys], world: CompileContext) -> ServerSettings:
    """The listeners and limits; what is wrong is noted."""
    keys = section.keys
    listen, admin = _address(section, world, "listen"), _address(section, world, "admin")
    decisions = _decisions(section, world, (listen, admin))
    _check_admin(section, world, listen, admin)
    return ServerSettings(
        listen=listen or _NOWHERE,
        admin=admin or _NOWHERE,
        decisions=decisions,
        deadline_s=keys.deadline,
        header_timeout_s=keys.header_timeout,
        idle_timeout_s=keys.idle_timeout,
        drain_notice_s=keys.drain_notice,
        drain_timeout_s=keys.drain_timeout,
        trusted_proxies=_networks(section, world),
        tls=_tls(section, world),
        strip_request_headers=frozenset(name.encode() for name in keys.strip_request_headers),
        admin_hosts=_admin_hosts(section, world),
        decision_log=_decision_log(section, world),
        **{name: getattr(keys, name) for name in _SAME_NAME},
    )


def _address(section: Section[ServerKeys], world: CompileContext, name: str) -> Address | None:
    if not section.sound(name):
        return None
    text: str = getattr(section.keys, name)
    return world.attempt(section.at(name), "bad-address", parse_address, text)


def _decisions(section: Section[ServerKeys], world: CompileContext, others: Iterable[Address | None]) -> Address | None:
    keys = section.keys.decisions
    if keys is None or not section.sound("decisions"):
        return None
    mark = section.at("decisions", "listen")
    if not section.keys.trusted_proxies and section.sound("trusted_proxies"):
        message = "only trusted proxies may ask the decision listener: server.trusted_proxies must name them"
        world.problems.error(section.key("decisions"), "decisions-need-proxies", message)
    address = world.attempt(mark, "bad-address", parse_address, keys.listen)
    if address is not None and address.port and address in others:
        world.problems.error(mark, "same-address", f"two listeners can't be on {address}")
    return address


def _decision_log(section: Section[ServerKeys], world: CompileContext) -> DecisionLogSettings | None:
    keys = section.keys.decision_log
    if keys is None or not section.sound("decision_log"):
        return None
    path, mark = world.files.resolve(keys.path), section.at("decision_log", "path")
    if path.is_dir():
        world.problems.error(mark, "bad-path", f"{keys.path} is a folder, and decisions are logged to a file")
    elif not path.parent.is_dir():
        world.problems.warning(mark, "no-folder", f"there is no folder {path.parent}: decisions can't be logged there")
    hashed = "hash" in (keys.subject, keys.values) or (world.identity == "opaque" and keys.subject != "none")
    if hashed and keys.key is None:
        message = "something is hashed here, so a key is needed, best as ${file:/path}"
        if world.identity == "opaque" and "hash" not in (keys.subject, keys.values):
            message = "opaque tokens are always hashed, so a key is needed, best as ${file:/path}"
        world.problems.error(section.key("decision_log"), "key-needed", message)
    if keys.properties and (keys.subject != "plain" or world.identity == "opaque"):
        mark, message = section.at("decision_log", "properties"), "properties are written of plain subjects only"
        world.problems.error(mark, "misplaced-key", message)
    return DecisionLogSettings(
        path=path,
        permits=keys.permits,
        subject=keys.subject,
        properties=keys.properties,
        values=keys.values,
        key=keys.key,
    )


def _check_admin(
    section: Section[ServerKeys], world: CompileContext, listen: Address | None, admin: Address | None
) -> None:
    if admin is None:
        return
    if not is_loopback(admin.host) and not section.keys.admin_token and section.sound("admin_token"):
        message = f"the admin listener on {admin} is not on loopback: it needs server.admin_token"
        world.problems.error(section.at("admin"), "admin-token-needed", message)
    if listen is not None and admin.port and listen == admin:
        world.problems.error(section.at("admin"), "same-address", f"both listeners can't be on {admin}")


def _networks(section: Section[ServerKeys], world: CompileContext) -> tuple[Network, ...]:
    networks = []
    for index, text in enumerate(section.keys.trusted_proxies):
        mark = section.at("trusted_proxies", index)
        network = world.attempt(mark, "bad-network", parse_network, text)
        if network is not None and network.prefixlen == 0:
            world.problems.warning(mark, "trusts-everybody", f"{network}: every caller may choose its address and name")
        if network is not None:
            networks.append(network)
    return tuple(networks)


def _tls(section: Section[ServerKeys], world: CompileContext) -> ServerTls | None:
    if section.keys.tls is None:
        return None
    files = {name: world.file(section.node.get("tls", name)) for name in ("cert_file", "key_file", "client_ca_file")}
    check_pair(section.key("tls"), files["cert_file"], files["key_file"], world.problems)
    check_authorities(section.at("tls", "client_ca_file"), files["client_ca_file"], world.problems)
    nowhere = Path()
    return ServerTls(
        cert_file=files["cert_file"] or nowhere,
        key_file=files["key_file"] or nowhere,
        client_ca_file=files["client_ca_file"],
    )


def _admin_hosts(section: Section[ServerKeys], world: CompileContext) -> frozenset[str]:
    hosts = set()
    for index, text in enumerate(section.keys.admin_hosts):
        host, colon, port = text.rpartition(":") if text.rpartition(":")[2].isdigit() else (text, "", "")
        name = world.attempt(section.at("admin_hosts", index), "bad-host", host_name, host)
        hosts.add(f"{name}{colon}{port}")
    return frozenset(hosts)
