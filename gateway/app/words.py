"""The lines of `serve` on stderr: one when it serves, one when it drains, and one when it has stopped.

Rule: no secrets. Of a URL, only the parts that the configuration also shows to operators.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from gateway import __version__
from gateway.model.settings import Configuration, IamApi


def serving(configuration: Configuration, addresses: Sequence[str], workers: int = 1) -> str:
    """The gateway serves: version, file, addresses (public, admin, decisions if any), routes, IAM, warnings."""
    listen, admin, *decisions = addresses
    scheme = "http" if configuration.server.tls is None else "https"
    parts = [
        f"gateway {__version__} serves {configuration.file} on {scheme}://{listen}",
        f"admin http://{admin}",
        *(f"decisions http://{address}" for address in decisions),
        several(len(configuration.routes), "route"),
        f"IAM {_iam(configuration)}",
        several(len(configuration.warnings), "warning"),
    ]
    return ", ".join(parts + ([several(workers, "worker")] if workers > 1 else []))


def reloaded(result: str, by: str, configuration: Configuration, problems: list[str]) -> list[tuple[int, str]]:
    """Lines for a reload with their level: changed, unchanged, or refused, with one line for each mistake.

    `configuration` is the one in use now.
    """
    file = configuration.file
    if problems:
        refused = "the configuration was not reloaded, the previous one stays in use"
        first = f"{refused}: {several(len(problems), 'mistake')} in {file} (by {by})"
        return [(logging.ERROR, first), *((logging.ERROR, problem) for problem in problems)]
    if result == "unchanged":
        return [(logging.INFO, f"reloaded: {file} is unchanged (by {by})")]
    counts = f"{several(len(configuration.routes), 'route')}, {several(len(configuration.warnings), 'warning')}"
    return [(logging.INFO, f"reloaded: {file} has changed and is in use now, {counts} (by {by})")]


def draining(why: str, notice_s: float, timeout_s: float) -> str:
    """The gateway was told to stop, and what happens next."""
    accepted = f"are accepted for {notice_s:g} s more" if notice_s else "are not accepted"
    return f"draining ({why}): new connections {accepted}, then requests in flight have {timeout_s:g} s to end"


def stopped(broken_off: int) -> str:
    """How the gateway stopped."""
    if broken_off:
        return f"stopped: {several(broken_off, 'request')} did not end within server.drain_timeout"
    return "stopped: every request was answered"


def several(count: int, noun: str) -> str:
    """`1 route`, `2 routes`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _iam(configuration: Configuration) -> str:
    settings = configuration.iam
    if settings.api is IamApi.EMBEDDED:
        return f"embedded ({configuration.access_policies})"
    return f"{settings.api.value} at {', '.join(settings.urls)}"
