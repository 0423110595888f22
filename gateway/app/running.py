"""The running gateway: the composition that serves now, how it is replaced, and what operators see and do.

Reload is all or nothing: the new configuration is loaded and constructed beside the old one; only then one reference is
swapped. Requests in flight end on the composition they began on; what nobody uses any more is closed after the last of
them. A bad configuration changes nothing but a log line, a metric and the status.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from gateway.admin.merge import merge_breakers, merge_status
from gateway.admin.recent import Recent
from gateway.app import pauses, words
from gateway.app.composition import Composition, compose, compose_beside
from gateway.app.pauses import SLICE, in_slices, one_by_one
from gateway.app.shared import Parts
from gateway.app.status import Status
from gateway.config import ConfigurationError, load, masked, weakened
from gateway.decide import DecisionPipeline
from gateway.forwarded import RequestBuilder
from gateway.model.request import name_of
from gateway.model.settings import Configuration, ServerSettings
from gateway.pipeline import Pipeline
from gateway.telemetry import Telemetry

_HASH: Final = re.compile("[0-9a-f]{64}")
_LOG: Final = logging.getLogger("gateway")


_TRY_S: Final = 3.0
"""How long an operator waits for what a trial of the gateway's own says."""
_AT_START: Final = ("listen", "admin", "decisions", "admin_token", "admin_hosts", "access_log", "log")
"""What of `server` a reload does not change."""
BY_CHANGE: Final = "a change of its folder"
"""A reload after a change of the folder. Its result is logged once, however often the folder changes."""


async def _nobody(settings: ServerSettings) -> None:
    """Does nothing: nobody needs to know."""


class Gateway:
    """One process's gateway. Constructed in its event loop. `override` puts command-line settings over a file's.

    `recent` hears what `telemetry` hears.
    """

    def __init__(
        self,
        configuration: Configuration,
        telemetry: Telemetry,
        override: Callable[[Configuration], Configuration],
        recent: Recent,
    ) -> None:
        self._telemetry = telemetry
        self._override = override
        self.recent = recent
        self._status = Status(self)
        self._loading = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._retired: list[Composition] = []
        self.when_reloaded: Callable[[ServerSettings], Awaitable[None]] = _nobody
        """Told what serves after every reload, also one that was refused."""
        self.when_changed: Callable[[Configuration], None] = lambda _: None
        """Told of every configuration that begins to serve after a reload."""
        self.tells_of_reloads = True
        """False for all workers but one: they read the same file."""
        self._told: tuple[str, ...] = ()
        self.composition = compose(configuration, telemetry.observer, Parts())
        self.composition.parts.settle()
        self.pipeline = Pipeline(self.composition.site, telemetry.observer, RequestBuilder())
        self.decisions = DecisionPipeline(self.composition.site, telemetry.observer)
        self.listening = False
        self.draining = asyncio.Event()
        self.reload_problems: tuple[str, ...] = ()
        self.refused_since_s: float | None = None
        self.loaded_at_s = time.time()
        self.refused([])

    @property
    def ready(self) -> bool:
        """Listening and not draining."""
        return self.listening and not self.draining.is_set()

    # What operators see

    async def status(self) -> dict[str, Any]:
        """Everything on the page."""
        own = await self._status.own()
        return await asyncio.to_thread(merge_status, [own])

    async def own_status(self) -> dict[str, Any]:
        """This worker's share of the page, for whoever speaks for all workers."""
        return await self._status.own()

    async def routes(self) -> list[dict[str, Any]]:
        """One row per route."""
        return await self._status.routes()

    async def breakers(self) -> dict[str, dict[str, Any]]:
        """Every breaker by name."""
        shown = await in_slices(list(self.composition.breakers.items()), lambda each: (each[0], each[1].snapshot()))
        return await asyncio.to_thread(merge_breakers, [dict(shown)])

    async def config(self) -> dict[str, Any]:
        """The configuration, secrets masked. A document of its own: whoever shows it may empty it."""
        return await asyncio.to_thread(masked, self.composition.configuration)

    async def systems_health(self) -> dict[str, Any]:
        """IAM and every upstream, asked now."""
        return await self.composition.health.report()

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Metrics and their media type, by what an `Accept` field asks for."""
        return await asyncio.to_thread(self._telemetry.exposition, accept)

    # What operators do

    async def reload(self, by: str = "the admin listener") -> tuple[bool, list[str]]:
        """Load the file again. Whether it serves now, and the mistakes if not."""
        async with self._loading:
            file = self.composition.configuration.file
            problems: list[str] = []
            result = "failure"
            try:
                with pauses.held_back():
                    loaded = self._override(await asyncio.to_thread(load, file, os.environ))
                    result = "success" if await self._swap(loaded) else "unchanged"
            except ConfigurationError as error:
                problems = str(error).splitlines()
            except (ValueError, OSError) as error:
                problems = [f"{file}: {error}"]
            except Exception as error:  # noqa: BLE001 - a bug in a reload must not end what serves
                self._telemetry.observer.bug("reload", error)
                problems = [f"{file}: something went wrong in the gateway"]
            self.refused(problems)
            detail = "; ".join(problems) or self.composition.configuration.hash
            self._telemetry.observer.config_reload(result, detail)
            self._tell(result, by, problems)
            if self.composition.decision_log is not None:
                self.composition.decision_log.reopen()
            await self.when_reloaded(self.composition.configuration.server)
            return not problems, problems

    def refused(self, problems: list[str]) -> None:
        """What is wrong with the file while another configuration serves; nothing: the file serves."""
        self.reload_problems = tuple(problems)
        self.refused_since_s = (self.refused_since_s or time.time()) if problems else None
        self._telemetry.observer.config_serves(self.composition.configuration.hash, len(problems))

    def _tell(self, result: str, by: str, problems: list[str]) -> None:
        """Each time that somebody asked; of changes of the folder only what is new."""
        before, self._told = self._told, (result, *problems)
        touched = result == "unchanged" and before[:1] != ("failure",)
        if self.tells_of_reloads and not (by == BY_CHANGE and (touched or before == self._told)):
            for level, line in words.reloaded(result, by, self.composition.configuration, problems):
                _LOG.log(level, "[config] %s", line)

    async def _swap(self, configuration: Configuration) -> bool:
        """Construct it beside the one that serves, then let it serve. What it raises has changed nothing.

        False if it is the one that serves.
        """
        before = self.composition
        if configuration.hash == before.configuration.hash:
            return False
        parts = Parts(before.parts)
        try:
            after = await compose_beside(configuration, self._telemetry.observer, parts)
        except BaseException:
            await parts.release()
            raise
        weaker = await asyncio.to_thread(weakened, before.configuration, configuration)
        await one_by_one(parts.settling())
        for name in before.breakers.keys() - after.breakers.keys():
            self._telemetry.observer.breaker_removed(name, before.breakers[name].kind)
        self._warn(before.configuration, configuration, weaker)
        self.composition = after
        self.pipeline.site = self.decisions.site = after.site
        self.loaded_at_s = time.time()
        self._retire(before)
        self.when_changed(configuration)
        return True

    def _warn(self, old: Configuration, new: Configuration, weaker: Iterable[str]) -> None:
        if not self.tells_of_reloads:
            return
        for line in weaker:
            _LOG.warning("reload weakens: %s", line)
        for name in _AT_START:
            if getattr(old.server, name) != getattr(new.server, name):
                _LOG.warning("server.%s has changed; the change takes effect at the next start", name)
        for warning in new.warnings:
            if warning not in old.warnings:
                _LOG.warning("%s", warning)

    def _retire(self, before: Composition) -> None:
        """Close what only the old composition used, once its last request is over."""

        def over() -> None:
            before.site.retired = None
            self._retired.remove(before)
            task = asyncio.get_running_loop().create_task(_let_go(before))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        self._retired.append(before)
        before.site.retired = over
        if not before.site.in_flight:
            over()

    @property
    def in_flight(self) -> int:
        """Requests and streams that are not over, also those of configurations before."""
        return sum(composition.site.in_flight for composition in (self.composition, *self._retired))

    @property
    def streams(self) -> int:
        """WebSockets and event streams that are open, also those of configurations before."""
        return sum(composition.streams.open for composition in (self.composition, *self._retired))

    async def drain(self) -> None:
        """Begin to end."""
        self.draining.set()

    def begin_to_end(self) -> None:
        """Say `Connection: close` from now on, and tell every stream, also those of configurations before."""
        self.pipeline.closing = self.decisions.closing = True
        for composition in (self.composition, *self._retired):
            composition.streams.drain()

    async def force_breaker(self, name: str, mode: str) -> bool:
        """Open, close, auto or try."""
        breaker = self.composition.breakers.get(name)
        if breaker is None:
            return False
        if mode == "try":
            if tries := breaker.try_now():
                await asyncio.wait(tries, timeout=_TRY_S)
        else:
            {"open": breaker.force_open, "close": breaker.force_close, "auto": breaker.auto}[mode]()
        return True

    async def purge_cache(self, subject: str | None = None) -> int:
        """Forget every decision and every copy, or those of one subject, whose streams end.

        An opaque token is named by itself or by its SHA-256.
        """
        serving = (self.composition, *self._retired)
        if subject is None:
            for copies in {composition.copies for composition in serving}:
                copies.clear()
            return sum(cache.purge() for cache in {composition.cache for composition in serving})
        name = subject if _HASH.fullmatch(subject) else name_of(subject)
        for composition in serving:
            composition.streams.end_subject(name)
            composition.copies.evict_owner(name)
        return sum(cache.purge_subject(name) for cache in {composition.cache for composition in serving})

    async def aclose(self) -> None:
        """Close everything, and leave what is known to the next process."""
        if self.composition.snapshot is not None:
            await self.composition.snapshot.write()
        for composition in (self.composition, *self._retired):
            await composition.parts.release()
        if self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders to watch for changes: of routes.yaml and of every file that it names."""
        configuration = self.composition.configuration
        wanted = {configuration.file.parent, *(file.parent for file in configuration.files)}
        wanted |= {configuration.file.parent / "policies", configuration.file.parent / "policies" / "access"}
        return tuple(sorted(folder for folder in wanted if folder.is_dir()))


async def _let_go(composition: Composition) -> None:
    """Close what nobody else holds, and give its memory back in slices: freed at once, it would hold up everybody."""
    await composition.parts.release()
    held: list[Any] = [*composition.configuration.routes, *composition.site.services.values()]
    held += composition.breakers.values()
    del composition
    while held:
        await asyncio.sleep(0)
        del held[-SLICE:]
