"""Whether the access policies that stand beside a configuration can be used: for commands, before anything serves."""

from __future__ import annotations

from pathlib import Path

from gateway.model.route import IamFailureMode
from gateway.model.settings import Configuration, IamApi
from gateway.pdp.problem import PolicyError, Problem


def needs_access_policies(configuration: Configuration) -> bool:
    """Whether they are asked anything here: as IAM, as a second one, or where a route degrades to them."""
    rules = (rule for route in configuration.routes for rule in route.on_iam_failure.values())
    shadow = configuration.iam_shadow
    if shadow is not None and shadow.iam.api is IamApi.EMBEDDED:
        return True
    return configuration.iam.api is IamApi.EMBEDDED or any(rule.mode is IamFailureMode.LOCAL for rule in rules)


def access_problems(configuration: Configuration) -> tuple[Problem, ...]:
    """The mistakes in its folder of access policies; none where there is nothing to be read."""
    from gateway.pdp.cedar import installed
    from gateway.pdp.point import EmbeddedDecisionPoint  # Cedar, only where there is something to read

    if configuration.access_policies is None or not (installed() or needs_access_policies(configuration)):
        return ()
    try:
        EmbeddedDecisionPoint.load(_as_seen_from_here(configuration.access_policies))
    except PolicyError as error:
        return error.problems
    return ()


def access_warnings(configuration: Configuration) -> list[str]:
    """What its access policies name and no route asks for, as lines; only where the gateway itself asks them."""
    from gateway.pdp.unasked import warnings_of  # Cedar, only where there is something to read

    if configuration.access_policies is None or not needs_access_policies(configuration):
        return []
    return list(warnings_of(_as_seen_from_here(configuration.access_policies), configuration.routes))


def _as_seen_from_here(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
