"""Addresses, networks and URLs as the configuration writes them; ValueError says what is wrong.

URLs name an origin and nothing else (an upstream), an origin with a path (IAM), or anything that is fetched (keys,
tokens). Rules: http and https only; no credentials; no host that two parsers read differently (`0x7f.1`, `2130706433`);
no link-local host, which is where clouds keep their metadata services (THREATS: SSRF by configuration).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.model.settings import Address, Network

_HOST_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?\Z")
_METADATA: Final = frozenset({"metadata.google.internal", "fd00:ec2::254", "100.100.100.200"})
_MAX_PORT: Final = 65535
_MAX_HOST: Final = 253


def parse_address(text: str) -> Address:
    """`HOST:PORT` or `[IPv6]:PORT`."""
    found = re.fullmatch(r"(?:\[([^\[\]]*)\]|([^\[\]:]*)):([0-9]{1,5})", text)
    if not found:
        raise ValueError("an address is HOST:PORT, or [IPv6]:PORT")
    v6, host, port = found.groups()
    if v6 is None and not host:
        raise ValueError(f"the host is missing; 0.0.0.0:{port} listens on every address")
    if int(port) > _MAX_PORT:
        raise ValueError(f"a port is at most {_MAX_PORT}")
    if v6 is not None:
        _ipv6(v6)
    return Address(v6 if v6 is not None else host_name(host), int(port))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or number alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_network(text: str) -> Network:
    """A CIDR, or one address."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        whole = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("a network is written like 10.0.0.0/8 or 2001:db8::/32") from None
    raise ValueError(f"the address has bits beyond its prefix; did you mean {whole}?")


def host_name(text: str) -> str:
    """A host name or IPv4 address, in lower case."""
    host = text.lower()
    if not host.isascii():
        raise ValueError("write an international name in its xn-- form")
    if len(host) > _MAX_HOST or not _HOST_NAME.match(host):
        raise ValueError(f"{text!r} is not a host name")
    if _numeric(host) and not _is_ipv4(host):
        raise ValueError(f"{text!r} can be read as different addresses; write four decimal numbers")
    return host


def _numeric(host: str) -> bool:
    try:
        socket.inet_aton(host)
    except OSError:
        return bool(re.fullmatch(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", host))
    return True


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _ipv6(text: str) -> ipaddress.IPv6Address:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"[{text}] is not an IPv6 address") from None
    if address.scope_id:
        raise ValueError(f"[{text}]: an address with a zone can't be used")
    return address


@dataclass(frozen=True, slots=True)
class Url:
    """A checked URL; `text` is its normal form without a trailing slash."""

    text: str
    scheme: str
    host: str


def parse_origin(text: str) -> Url:
    """`http://host:port` and nothing else."""
    url = _split(text)
    if url.path not in ("", "/"):
        raise ValueError("an upstream's url ends after the port; a path belongs to the route (see strip_prefix)")
    if url.query or "?" in text:
        raise ValueError("an upstream's url ends after the port")
    return _normal(url, "")


def parse_base(text: str) -> Url:
    """A URL that paths are added to: it may end in a path."""
    url = _split(text)
    if url.query or "?" in text:
        raise ValueError("this url can't have a query")
    return _normal(url, _path(url).rstrip("/"))


def parse_resource(text: str) -> Url:
    """A URL that is fetched as it is: path and query may follow."""
    url = _split(text)
    return _normal(url, _path(url) + (f"?{url.query}" if url.query else ""))


def _split(text: str) -> SplitResult:
    if re.search(r"[\s\\]", text) or not text.isascii():
        raise ValueError("a url can't hold spaces, backslashes or characters beyond ASCII")
    url = _parsed(text)
    if url.scheme not in ("http", "https") or "://" not in text:
        raise ValueError("a url starts with http:// or https://")
    if "@" in url.netloc:
        raise ValueError("credentials don't belong into a url")
    if url.fragment or "#" in text:
        raise ValueError("a url can't have a fragment here")
    if not url.hostname:
        raise ValueError("the url names no host")
    return url


def _parsed(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(f"this is not a url; a port is one of 1 to {_MAX_PORT}") from None
    if port == 0 or url.netloc.endswith(":"):
        raise ValueError(f"a port is one of 1 to {_MAX_PORT}")
    return url


def _path(url: SplitResult) -> str:
    if any(segment in (".", "..") for segment in url.path.split("/")) or "//" in url.path:
        raise ValueError("the url's path has empty or dot segments")
    return url.path


def _normal(url: SplitResult, rest: str) -> Url:
    host = url.hostname or ""
    v6 = url.netloc.startswith("[")
    host = str(_ipv6(host)) if v6 else host_name(host)
    _not_metadata(host)
    authority = (f"[{host}]" if v6 else host) + (f":{url.port}" if url.port else "")
    return Url(f"{url.scheme}://{authority}{rest}", url.scheme, host)


def _not_metadata(host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    mapped = getattr(address, "ipv4_mapped", None) or address
    if host.rstrip(".") in _METADATA or (mapped is not None and mapped.is_link_local):
        raise ValueError("this is the address of a cloud's metadata service, or another link-local one")
