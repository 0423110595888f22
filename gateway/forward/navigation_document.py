"""What becomes of a navigation document: every item gets the answer that IAM gave for it, everything else stays.

Rules: `enabled` of an item is always written here, so what the upstream said of it never survives; an item that nothing
could be asked about (a field is missing) is disabled and unknown; a denied one is removed or disabled; order, unknown
fields and items elsewhere stay as they were. A document that is not built as the pattern says has no items that could
be told from the rest, so it is refused, not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.forward.pointer import Place, WrongShape, find_all
from gateway.model.question import Decision, Outcome

MAX_ITEMS: Final = 10_000


def items_of(document: Any, pattern: tuple[str, ...]) -> list[Place]:
    """All items, in order. Raises `upstream_protocol_error` for a document of another shape, or too many items."""
    try:
        places = list(find_all(document, pattern))
    except WrongShape as wrong:
        raise _unusable(str(wrong)) from None
    if len(places) > MAX_ITEMS:
        raise _unusable(f"more than {MAX_ITEMS} items")
    if not isinstance(document, dict) or not all(isinstance(place.value, dict) for place in places):
        raise _unusable("an item is not an object")
    return places


def mark(places: Sequence[Place], decisions: Sequence[Decision | None], *, remove_denied: bool) -> None:
    """Write each item's answer into it; None: nothing could be asked about it."""
    for place, decision in reversed(list(zip(places, decisions, strict=True))):
        outcome = Outcome.UNKNOWN if decision is None else decision.outcome
        if outcome is Outcome.ALLOW:
            place.value["enabled"] = True
        elif outcome is Outcome.DENY and remove_denied:
            del place.container[place.key]
        else:
            place.value.update(enabled=False, access="denied" if outcome is Outcome.DENY else "unknown")


def _unusable(reason: str) -> GatewayError:
    return GatewayError("upstream_protocol_error", "The navigation could not be read.", reason=reason)
