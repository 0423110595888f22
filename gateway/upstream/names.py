"""Which addresses an origin's name has, and in which order they are tried.

Rules: at most one look-up per name at a time, shared by all who wait, so that a slow resolver cannot take all resolver
threads from the other upstreams; what was found is used for RESOLVED_FOR_S. When a later look-up fails, or takes longer
than STALE_WAIT_S, the last known addresses serve: names change seldom, and resolvers fail more often than addresses
move. IPv4 and IPv6 alternate (RFC 8305 section 4). An address that could not be connected to is tried last for DEAD_S;
it is never left out, because it may be the only one that works by then.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from itertools import chain, zip_longest
from typing import Any, Final

from gateway.model.settings import Address
from gateway.upstream import failures

RESOLVED_FOR_S: Final = 1.0
STALE_WAIT_S: Final = 0.25
DEAD_S: Final = 60.0
_MAX_DEAD: Final = 256

AddressInfo = tuple[int, int, int, str, Any]
"""An item of `socket.getaddrinfo`."""

_log = logging.getLogger("gateway.upstream")


class _Known:
    """What a name was found to be; `until_s` is in the loop's time."""

    __slots__ = ("addresses", "failing", "until_s")

    def __init__(self, addresses: list[AddressInfo], until_s: float) -> None:
        self.addresses = addresses
        self.until_s = until_s
        self.failing = False


class Names:
    """The addresses of one upstream's origins. One event loop only."""

    __slots__ = ("_dead", "_known", "_lookups")

    def __init__(self) -> None:
        self._lookups: dict[Address, asyncio.Task[list[AddressInfo]]] = {}
        self._known: dict[Address, _Known] = {}
        self._dead: dict[Any, float] = {}

    async def addresses(self, address: Address, within_s: float) -> list[AddressInfo]:
        """At least one, the most promising first. ConnectFailed if none is known and none is found in time."""
        known = self._known.get(address)
        if known is None:
            return self._ordered(await self._first(address, within_s))
        if asyncio.get_running_loop().time() >= known.until_s:
            await self._renew(address, known, min(within_s, STALE_WAIT_S))
        return self._ordered(self._known[address].addresses)

    def dead(self, address: AddressInfo) -> None:
        """It could not be connected to, or was slower than another one."""
        now = asyncio.get_running_loop().time()
        if len(self._dead) >= _MAX_DEAD:
            self._dead = {each: until_s for each, until_s in self._dead.items() if until_s > now}
        if len(self._dead) < _MAX_DEAD:
            self._dead[address[4]] = now + DEAD_S

    def alive(self, address: AddressInfo) -> None:
        """It was connected to."""
        self._dead.pop(address[4], None)

    async def _first(self, address: Address, within_s: float) -> list[AddressInfo]:
        try:
            async with asyncio.timeout(within_s):
                return await self._asked(address)
        except TimeoutError:
            raise failures.name_timed_out(address.host, within_s) from None
        except OSError as error:
            raise failures.name_failed(address.host, error) from error

    async def _renew(self, address: Address, known: _Known, within_s: float) -> None:
        """Replace what is known, or go on with it."""
        try:
            async with asyncio.timeout(within_s):
                await self._asked(address)
        except OSError as error:  # TimeoutError is one
            known.until_s = asyncio.get_running_loop().time() + RESOLVED_FOR_S
            if not known.failing:
                known.failing = True
                why = failures.name_failed(address.host, error).reason
                _log.warning("[upstream] %s: the last known addresses go on", why)

    async def _asked(self, address: Address) -> list[AddressInfo]:
        lookup = self._lookups.get(address)
        if lookup is None:
            lookup = self._lookups[address] = asyncio.get_running_loop().create_task(self._look_up(address))
            lookup.add_done_callback(_note)
        return await asyncio.shield(lookup)

    async def _look_up(self, address: Address) -> list[AddressInfo]:
        try:
            addresses = await _addresses(address)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
            self._known[address] = _Known(addresses, asyncio.get_running_loop().time() + RESOLVED_FOR_S)
            return addresses
        finally:
            del self._lookups[address]

    def _ordered(self, addresses: list[AddressInfo]) -> list[AddressInfo]:
        if len(addresses) == 1:
            return addresses
        first = [each for each in addresses if each[0] == addresses[0][0]]
        others = [each for each in addresses if each[0] != addresses[0][0]]
        alternating = [each for each in chain(*zip_longest(first, others)) if each is not None]
        if not self._dead:
            return alternating
        now = asyncio.get_running_loop().time()
        return sorted(alternating, key=lambda each: self._dead.get(each[4], 0.0) > now)


def _note(lookup: asyncio.Task[list[AddressInfo]]) -> None:
    """Take note of how it ended, so that asyncio does not complain when nobody waits for it any more."""
    if not lookup.cancelled():
        lookup.exception()


async def _addresses(address: Address) -> list[AddressInfo]:
    flags = socket.AI_NUMERICHOST if _is_literal(address.host) else 0
    if flags:
        return _infos(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags))
    loop = asyncio.get_running_loop()
    return _infos(await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))


def _infos(found: list[Any]) -> list[AddressInfo]:
    return [(int(family), int(kind), proto, name, sockaddr) for family, kind, proto, name, sockaddr in found]


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
