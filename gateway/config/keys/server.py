"""`server`: the listeners and the limits of everything that goes through them."""

from __future__ import annotations

from typing import Annotated, Literal

from gateway.config.keys.base import Keys, Maybe, key, listing, optional, required
from gateway.config.keys.types import (
    Count,
    Duration,
    DurationOrZero,
    FilePath,
    HeaderName,
    Name,
    RequiredSecret,
    Secret,
    Size,
    SizeOrZero,
    SomeOrNone,
    Text,
    Word,
)


class ServerTlsKeys(Keys):
    """TLS on the public listener; the files are read again when they are renewed."""

    cert_file: FilePath = required("The certificate chain, PEM.")
    key_file: FilePath = required("Its private key, PEM.")
    client_ca_file: Maybe[FilePath] = optional("With it, clients must show a certificate of these authorities.")


class DecisionsKeys(Keys):
    """The decision listener, for a proxy that forwards by itself (docs/decisions.md)."""

    listen: Text = required("Where the other proxy asks: HOST:PORT. Only `trusted_proxies` may ask.")


class DecisionLogKeys(Keys):
    """One line for each decision, in a file (docs/evidence.md)."""

    path: FilePath = required("The file, made with mode 0600. Rotate it by renaming it, then SIGHUP.")
    permits: SomeOrNone = key("all", "all, none or a share like 1% of the permits; denials and unknowns always.")
    subject: Annotated[Literal["plain", "hash", "none"], Word] = key(
        "plain", "How a line names the subject. An opaque token is hashed in any case."
    )
    values: Annotated[Literal["plain", "hash"], Word] = key(
        "plain", "How a line shows what checks have from `{header.NAME}` and `{query.NAME}`."
    )
    key: Maybe[RequiredSecret] = optional("What hashes are keyed with. Required where anything is hashed.")


class ServerKeys(Keys):
    """The public listener, the admin listener and their limits."""

    listen: Text = key("127.0.0.1:8080", "Where callers connect: HOST:PORT, [IPv6]:PORT; port 0 takes any free one.")
    admin: Text = key(
        "127.0.0.1:9901",
        "Health, metrics and status page: HOST:PORT. Never on the public listener; off loopback it needs admin_token.",
    )
    decisions: Maybe[DecisionsKeys] = optional(
        "The decision listener, for a proxy that asks here and forwards by itself. None when left out."
    )
    name: Name = key("edge", "What the gateway calls itself in Via and Proxy-Status.")
    deadline: Duration = key("10s", "A route's deadline where it and its policy name none.")
    trusted_proxies: list[Text] = listing(
        "CIDRs whose X-Forwarded-*, X-Request-ID and traceparent are believed. None when left out."
    )
    max_concurrency: Count = key(2000, "Requests in flight; more are answered 503 overloaded.")
    max_body: SizeOrZero = key("64MiB", "The largest request body, 0 for no limit; a route may set its own.")
    max_header_bytes: Size = key("32KiB", "The largest request head; more is 431.")
    header_timeout: Duration = key(
        "10s", "For a request head: from accept, then from the first byte of each later head."
    )
    idle_timeout: Duration = key("75s", "How long a kept connection may stay silent between requests.")
    drain_notice: Maybe[DurationOrZero] = optional(
        "How long a stopping gateway, no longer ready, still takes new connections, so that load balancers notice. "
        "When left out: 0 on a terminal, else 5s and at most half of drain_timeout."
    )
    drain_timeout: DurationOrZero = key(
        "15s", "How long a stopping gateway waits for requests in flight, after drain_notice."
    )
    tls: Maybe[ServerTlsKeys] = optional("TLS on the public listener. Without it the listener speaks plain HTTP.")
    max_connections: Count = key(
        10000, "Connections on the public listener, counted from accept. One more is told so and closed at once."
    )
    max_connections_per_client: Count = key(
        1000, "Of these, connections from one IPv4 address or IPv6 /64. Trusted proxies have no such limit."
    )
    max_headers: Count = key(100, "Header fields in one request.")
    max_uri: Size = key("8KiB", "The longest request target; more is 414.")
    min_body_rate: SizeOrZero = key(
        "1KiB", "Per second, measured over 10 s: a body that comes slower is 408. 0 turns it off."
    )
    max_streams: Count = key(10000, "Event streams and WebSockets; they do not count in max_concurrency.")
    max_token: Size = key("8KiB", "The longest token; more is 431.")
    strip_request_headers: list[HeaderName] = listing(
        "Header fields removed from every request, besides those that are always removed."
    )
    admin_token: Maybe[Secret] = optional("The bearer token that the admin listener asks for. None when left out.")
    admin_hosts: list[Text] = listing("Further values of Host that the admin listener answers to.")
    access_log: Maybe[Annotated[Literal["json", "text", "off"], Word]] = optional(
        "json, text or off. When left out: text on a terminal, else json."
    )
    log: Maybe[Annotated[Literal["text", "json"], Word]] = optional(
        "The form of the lines on stderr: text or json. When left out: text."
    )
    decision_log: Maybe[DecisionLogKeys] = optional("A log of decisions. None when left out.")
