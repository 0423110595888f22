"""Which addresses an origin's name has, and in which order they are tried."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from functools import partial
from itertools import chain, zip_longest
from typing import Any, Final

from gateway.model.settings import Address
from gateway.upstream import failures

RESOLVED_FOR_S: Final = 1.0
STALE_WAIT_S: Final = 0.25
AGAIN_AFTER_S: Final = 2.0
DEAD_S: Final = 60.0
_MAX_DEAD: Final = 256

AddressInfo = tuple[int, int, int, str, Any]
"""An item of `socket.getaddrinfo`."""

_log = logging.getLogger("gateway.upstream")


class _Known:
    """What a name was found to be by the look-up that began at `begun_s`. Times are the loop's."""

    __slots__ = ("addresses", "begun_s", "failing", "until_s")

    def __init__(self, addresses: list[AddressInfo], begun_s: float, until_s: float) -> None:
        self.addresses = addresses
        self.begun_s = begun_s
        self.until_s = until_s
        self.failing = False


class _Lookups:
    """What is being asked about one name: `newest` is the one to wait for, `hanging` how many are under way."""

    __slots__ = ("again_s", "hanging", "newest")

    def __init__(self) -> None:
        self.newest: asyncio.Task[list[AddressInfo]] | None = None
        self.again_s = 0.0
        self.hanging = 0


class Names:
    """The addresses of one upstream's origins. One event loop only."""

    __slots__ = ("_dead", "_known", "_lookups")

    def __init__(self) -> None:
        self._lookups: dict[Address, _Lookups] = {}
        self._known: dict[Address, _Known] = {}
        self._dead: dict[Any, float] = {}

    async def addresses(self, address: Address, within_s: float) -> list[AddressInfo]:
        """At least one, the most promising first. ConnectFailed if none is known and none is found in time."""
        known = self._known.get(address)
        if known is None:
            return self._ordered(await self._first(address, within_s))
        # What was found is used for RESOLVED_FOR_S.
        if asyncio.get_running_loop().time() >= known.until_s:
            await self._renew(address, known, min(within_s, STALE_WAIT_S))
        return self._ordered(self._known[address].addresses)

    def knows(self, address: Address) -> bool:
        """Whether it was found before: then the last known addresses serve whatever happens."""
        return address in self._known

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
        # The last known addresses serve: resolvers fail more often than addresses move.
        except OSError as error:  # TimeoutError is one
            known.until_s = asyncio.get_running_loop().time() + RESOLVED_FOR_S
            if not known.failing:
                known.failing = True
                why = failures.name_failed(address.host, error).reason
                _log.warning("[upstream] %s: the last known addresses go on", why)

    async def _asked(self, address: Address) -> list[AddressInfo]:
        loop = asyncio.get_running_loop()
        lookups = self._lookups.get(address)
        if lookups is None:
            lookups = self._lookups[address] = _Lookups()
        if lookups.newest is None or loop.time() >= lookups.again_s:
            # Another look-up begins beside one that hangs, later each time, so that one name cannot take all resolver
            # threads.
            lookups.again_s = loop.time() + AGAIN_AFTER_S * 2**lookups.hanging
            lookups.hanging += 1
            lookups.newest = loop.create_task(self._look_up(address, loop.time()))
            lookups.newest.add_done_callback(partial(self._ended, address, lookups))
        # All who wait share one look-up.
        return await asyncio.shield(lookups.newest)

    async def _look_up(self, address: Address, begun_s: float) -> list[AddressInfo]:
        addresses = await _addresses(address)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        known = self._known.get(address)
        if known is None or known.begun_s <= begun_s:  # one that hung may end after a younger one
            self._known[address] = _Known(addresses, begun_s, asyncio.get_running_loop().time() + RESOLVED_FOR_S)
        return addresses

    def _ended(self, address: Address, lookups: _Lookups, lookup: asyncio.Task[list[AddressInfo]]) -> None:
        lookups.hanging -= 1
        if not lookups.hanging:
            del self._lookups[address]
        elif lookups.newest is lookup:
            lookups.newest = None
        if not lookup.cancelled():
            lookup.exception()  # asyncio complains of one that nobody saw, and perhaps nobody waits any more

    def _ordered(self, addresses: list[AddressInfo]) -> list[AddressInfo]:
        if len(addresses) == 1:
            return addresses
        first = [each for each in addresses if each[0] == addresses[0][0]]
        others = [each for each in addresses if each[0] != addresses[0][0]]
        # IPv4 and IPv6 alternate (RFC 8305 section 4).
        alternating = [each for each in chain(*zip_longest(first, others)) if each is not None]
        if not self._dead:
            return alternating
        now = asyncio.get_running_loop().time()
        # A dead one goes last and is never left out: it may be the only one that works by then.
        return sorted(alternating, key=lambda each: self._dead.get(each[4], 0.0) > now)


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
