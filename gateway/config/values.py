"""Durations, sizes, shares, addresses, networks and URLs as the configuration writes them."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.model.settings import Address, Network

# Durations, sizes and shares as the configuration writes them, to and from seconds, bytes and fractions.
#
# `250ms`, `2s`, `1m30s`, `1h`: units in falling order, each once. `64KiB`, `10MiB`: powers of 1024. `50%`. A number
# without its unit is a mistake that says so (a duration that was meant as milliseconds must not become hours); `0`
# alone needs no unit as a size.

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
DURATION_PATTERN: Final = rf"^(?=[0-9])(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?$"
SIZE_PATTERN: Final = r"^(?:0|[0-9]+(?:B|KiB|MiB|GiB))$"
SHARE_PATTERN: Final = r"^(?:100|[1-9]?[0-9](?:\.[0-9]+)?)%$"
MAX_DURATION_S: Final = 366 * 24 * 3600.0
MAX_SIZE: Final = 2**50
_MAX_TEXT: Final = 40
_DURATION: Final = re.compile(DURATION_PATTERN[:-1] + r"\Z")
_SIZE: Final = re.compile(SIZE_PATTERN[:-1] + r"\Z")
_SHARE: Final = re.compile(SHARE_PATTERN[:-1] + r"\Z")
_COMPONENT: Final = re.compile(r"([0-9.]+)(h|ms|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES: Final = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_LOOSE_SIZE: Final = re.compile(r"([0-9]+)\s*([kKmMgG])i?[bB]?\Z")


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError with what is wrong."""
    if re.fullmatch(r"[0-9.]+", text):
        raise ValueError(f'a duration needs its unit: "{text}s" or "{text}ms"')
    if len(text) > _MAX_TEXT or not _DURATION.match(text):
        raise ValueError("not a duration; write it like 250ms, 2s, 1m30s or 1h")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _COMPONENT.findall(text))
    if seconds > MAX_DURATION_S:
        raise ValueError("a duration is at most a year")
    return round(seconds, 9)


def format_duration(seconds: float) -> str:
    """The shortest text that reads back as `seconds`, with `60s` and `90s` rather than minutes up to two of them."""
    ms = round(seconds * 1000)
    if ms == 0:
        return "0s"
    if ms % 1000 or ms < 120_000:  # two minutes
        return _seconds_text(ms)
    parts = (("h", ms // 3_600_000), ("m", ms // 60_000 % 60), ("s", ms // 1000 % 60))
    return "".join(f"{count}{unit}" for unit, count in parts if count)


def _seconds_text(ms: int) -> str:
    whole, rest = divmod(ms, 1000)
    return (f"{whole}s" if whole else "") + (f"{rest}ms" if rest else "")


def parse_size(text: str) -> int:
    """Bytes. Raises ValueError with what is wrong."""
    found = _LOOSE_SIZE.match(text)
    if len(text) <= _MAX_TEXT and _SIZE.match(text):
        number, unit = re.match(r"([0-9]+)(.*)", text).groups()  # type: ignore[union-attr] # the pattern matched
        size = int(number) * _BYTES.get(unit, 1)
        if size <= MAX_SIZE:
            return size
        raise ValueError("a size is at most 1 PiB")
    if re.fullmatch(r"[0-9]+", text):
        raise ValueError(f'a size needs its unit: "{text}B", "{text}KiB" or "{text}MiB"')
    hint = f'; did you mean "{found[1]}{found[2].upper()}iB"?' if found else ""
    raise ValueError(f"not a size; write it like 512B, 64KiB, 10MiB or 1GiB{hint}")


def format_size(size: int) -> str:
    """The shortest text that reads back as `size` bytes."""
    for unit, factor in _BYTES.items():
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return "0"


def parse_share(text: str) -> float:
    """A fraction above 0 and at most 1. Raises ValueError with what is wrong."""
    if len(text) > _MAX_TEXT or not _SHARE.match(text):
        raise ValueError("not a share; write it like 50%")
    share = float(text[:-1]) / 100
    if not share:
        raise ValueError("a share is more than 0%")
    return share


def parse_some(text: str) -> float:
    """`all`, `none`, or a share. Raises ValueError with what is wrong."""
    if text in ("all", "none"):
        return float(text == "all")
    try:
        return parse_share(text)
    except ValueError as error:
        raise ValueError(f"{error}; write all for everything and none for nothing") from None


# Addresses, networks and URLs as the configuration writes them; ValueError says what is wrong.
#
# URLs name an origin and nothing else (an upstream), an origin with a path (IAM), or anything that is fetched (keys,
# tokens). Rules: http and https only; no credentials; no host that two parsers read differently (`0x7f.1`,
# `2130706433`); no link-local host, which is where clouds keep their metadata services (no SSRF by
# configuration).

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
        raise ValueError("a network looks like 10.0.0.0/8 or 2001:db8::/32") from None
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
        raise ValueError("credentials are not allowed in a url")
    if url.fragment or "#" in text:
        raise ValueError("a url can't have a fragment here")
    if not url.hostname:
        raise ValueError("the url has no host")
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
