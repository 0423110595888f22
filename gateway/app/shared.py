"""What a reload keeps and what it drops: breakers, pools, clients, and what was learned."""

from __future__ import annotations

import logging
import operator
import secrets
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from gateway.app.pauses import Steps, at_once, each
from gateway.model.settings import Configuration, IamApi, IamSettings

# What the long-lived parts depend on: a reload drops exactly the parts whose dependency has changed.
#
# Permits and denials depend on the question (which is their key) and on who decides. Breakers, connections and copies
# depend on where requests go. With several addresses, what was learned stays as long as the old and the new list have
# one in common. So adding an address, or removing one of several, changes nothing that was learned.


@dataclass(frozen=True, slots=True)
class Decider:
    """Who decides. `paths`: where on the server it is asked; None for one that is not used."""

    api: str
    paths: tuple[str | None, ...]
    policies: tuple[tuple[str, bytes], ...]
    urls: frozenset[str]
    headers: tuple[tuple[str, str], ...] = ()


def decider_of(configuration: Configuration) -> Decider:
    """Who decides under this configuration."""
    iam = configuration.iam
    embedded = iam.api is IamApi.EMBEDDED
    return Decider(
        api=iam.api,
        paths=() if embedded else _paths(iam),
        policies=configuration.access_texts if embedded else (),
        urls=frozenset(iam.urls),
        headers=iam.headers,
    )


def same_decider(old: Decider, new: Decider) -> bool:
    """Whether what the old one said is what the new one would say."""
    if (old.api, old.policies, old.headers, len(old.paths)) != (new.api, new.policies, new.headers, len(new.paths)):
        return False
    if any(a != b for a, b in zip(old.paths, new.paths, strict=True) if a is not None and b is not None):
        return False
    return share_one(old.urls, new.urls)


def share_one(old: frozenset[str], new: frozenset[str]) -> bool:
    """Whether both lists of addresses have one in common, or both have none."""
    return old == new or bool(old & new)


class Places:
    """What one upstream's answers are kept under: a name for its addresses that lists which share one have in common.

    A list that comes back, as when a change is taken back, has the name that it had.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def of(self, urls: Sequence[str]) -> str:
        """The name of these addresses."""
        return next((self._names[url] for url in urls if url in self._names), "") or secrets.token_hex(8)

    def serve(self, urls: Sequence[str], name: str) -> None:
        """These addresses serve under this name now."""
        self._names.update(dict.fromkeys(urls, name))


def _paths(iam: IamSettings) -> tuple[str | None, ...]:
    match iam.api:
        case IamApi.OPA:
            return (iam.opa_path,)
        case IamApi.JSON | IamApi.AUTHZEN:
            return (iam.batch_path, iam.single_path)
    return ()


# Rules: a part is taken over if its dependencies have not changed, otherwise a new one is made. Every composition that
# took a part holds it. The part is closed when the last of them has released it. So a request that still runs on an old
# configuration never loses a pool that a later configuration does not have. The caller says what a part depends on (see
# `kept`). Its other settings are changed when the new composition is in use.

_LOG: Final = logging.getLogger("gateway")

Part = TypeVar("Part")
From = TypeVar("From")
Close = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Held:
    """A part, what it was made from, and how many compositions hold it."""

    part: Any
    made_from: Any
    close: Close | None
    holders: int = 0


class Parts:
    """The long-lived parts of one composition. `before`: the one whose unchanged parts are taken over."""

    def __init__(self, before: Parts | None = None) -> None:
        self.held: dict[Hashable, _Held] = {}
        self._before = before.held if before is not None else {}
        self._changes: list[Callable[[], None]] = []

    def when_settled(self, change: Callable[[], None]) -> None:
        """Change a part that was taken over, but only once this composition serves."""
        self._changes.append(change)

    def take(
        self,
        key: Hashable,
        made_from: From,
        make: Callable[[], Part],
        close: Callable[[Part], Close] | None = None,
        *,
        same: Callable[[From, From], bool] = operator.eq,
    ) -> Part:
        """The part under `key`: the one from before if it was made from the same thing, else a new one."""
        held = self.held.get(key)
        if held is None:
            held = self._before.get(key)
            if held is None or not same(held.made_from, made_from):
                made = make()
                held = _Held(made, made_from, close(made) if close else None)
            else:
                self.when_settled(partial(setattr, held, "made_from", made_from))
            held.holders += 1
            self.held[key] = held
        part: Part = held.part
        return part

    def before(self, key: Hashable) -> Any:
        """The part that the composition before has under `key`, taken over or not; None without one."""
        held = self._before.get(key)
        return None if held is None else held.part

    def settle(self) -> None:
        """This composition is in use now: make the changes, and forget the previous one, so that it can be freed."""
        at_once(self.settling())

    def settling(self) -> Steps[None]:
        """The same in steps."""
        yield from each(self._changes, lambda change: change())
        self._changes.clear()
        self._before = {}

    async def release(self) -> None:
        """Release every part, and close those that nobody else holds, the newest first."""
        let_go = list(reversed(self.held.values()))
        self.held, self._before = {}, {}
        self._changes.clear()
        for held in let_go:
            held.holders -= 1
        for held in let_go:
            if held.holders == 0 and held.close is not None:
                await _close(held.close, type(held.part).__name__)


async def _close(close: Close, name: str) -> None:
    """One part that cannot be closed must not keep the others open."""
    try:
        await close()
    except Exception:  # noqa: BLE001 - any error is logged with its traceback
        _LOG.exception("%s was not closed", name)
