"""What two configurations decide differently, and which of it is weaker: asks less, or answers more without IAM.

`weakened` is what a reload logs; `differences` is what `gateway diff` prints. Weaker is: a check, a method or a route
that needs less; a public route under a guarded path; a rule that degrades more; a raised `ttl` or `max_stale`; a trust
list that is wider. Not weaker: an added guarded route, and changed limits and timeouts. What the policies decide is not
evaluated: that they have changed is told, and `gateway policy test` and `gateway replay` tell the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.changes.change import EVERYWHERE, Change, Lines
from gateway.config.changes.others import other_changes
from gateway.config.changes.policies import policies_changed
from gateway.config.changes.routes import routes_weakened
from gateway.config.changes.trust import iam_weakened, identity_weakened, server_weakened, upstreams_weakened
from gateway.model.route import IamFailureMode
from gateway.model.settings import Configuration, IamApi

__all__ = ["Change", "differences", "weakened"]


def weakened(old: Configuration, new: Configuration) -> list[str]:
    """One line for each way in which the gateway became weaker: `inventory: GET is public, was checks`.

    Policies that may permit more are among them.
    """
    lines = [str(change) for change in _weaker(old, new)]
    at = sum(line.startswith(EVERYWHERE) for line in lines)
    return lines[:at] + list(_policies(old, new)) + lines[at:]


def differences(old: Configuration, new: Configuration) -> list[Change]:
    """Everything that differs, weaker first, in an order that does not depend on the order in the files."""
    weaker = _weaker(old, new)
    policies = [Change("policies", "policies", f"policies changed: {line}") for line in _policies(old, new)]
    return [*weaker, *policies, *other_changes(old, new, {(change.where, change.field) for change in weaker})]


def _weaker(old: Configuration, new: Configuration) -> list[Change]:
    found = [
        *_named(EVERYWHERE, identity_weakened(old.identity, new.identity)),
        *_named(EVERYWHERE, iam_weakened(old.iam, new.iam)),
        *_named(EVERYWHERE, server_weakened(old.server, new.server)),
        *upstreams_weakened(old.upstreams, new.upstreams),
        *routes_weakened(old, new),
    ]
    return list(dict.fromkeys(found))


def _named(where: str, lines: Lines) -> Iterator[Change]:
    return (Change(where, said.field, said.text, weaker=True) for said in lines)


def _policies(old: Configuration, new: Configuration) -> Iterator[str]:
    """Policies that may permit more; nothing where they do not decide."""
    if _decides(old) and _decides(new):
        yield from policies_changed(dict(old.access_texts), dict(new.access_texts))


def _decides(configuration: Configuration) -> bool:
    rules = (rule for route in configuration.routes for rule in route.on_iam_failure.values())
    return configuration.iam.api is IamApi.EMBEDDED or any(rule.mode is IamFailureMode.LOCAL for rule in rules)
