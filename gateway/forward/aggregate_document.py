"""The answer of an aggregate, made from what its systems said. Pure: no waiting, no network.

Rules: the path's parameters come first, then who was asked and who answered; a system whose policy said no is not
asked, stands in `systems_denied` and takes nothing from the answer's being complete; a system that failed does.
`*_found` is None where a system did not answer, since False would say that it did. Systems are always in the route's
order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import KINDS, GatewayError
from gateway.forward.comparison import Comparer
from gateway.forward.parts import Failure, PartAnswer
from gateway.model.route import AggregateAction

_UNAVAILABLE: Final = 503


@dataclass(frozen=True, slots=True)
class Answers:
    """What the systems said, in the route's order. `denied`: systems that were not asked."""

    answers: Sequence[PartAnswer]
    denied: Sequence[str]

    @property
    def failures(self) -> dict[str, Failure]:
        """Why systems did not answer."""
        return {answer.name: answer.failure for answer in self.answers if answer.failure is not None}

    @property
    def failures_in_words(self) -> str:
        """Why systems did not answer, for the log."""
        return ", ".join(f"{name}: {failure.in_words}" for name, failure in self.failures.items())

    @property
    def oldest_s(self) -> float | None:
        """The age of the oldest last good answer among them."""
        return max((answer.age_s for answer in self.answers if answer.age_s is not None), default=None)


class AggregateDocument:
    """Makes the documents of one aggregate."""

    def __init__(self, action: AggregateAction) -> None:
        self._action = action
        self._unknown = False if action.unknown_as_false else None
        self._found_fields = [(part.name, part.found_field) for part in action.parts if part.found_field]
        self._comparer = Comparer(action.compare, [part.name for part in action.parts])
        self._required = [part.name for part in action.parts if part.required]

    def echo(self, params: Mapping[str, str]) -> dict[str, Any]:
        """The path's parameters, as they stand at the top."""
        return {name: params[name] for name in self._action.echo if name in params}

    def compose(self, params: Mapping[str, str], said: Answers) -> dict[str, Any]:
        """The whole answer."""
        failures = said.failures
        found = {answer.name: answer.data for answer in said.answers if answer.found}
        discrepancies = self._comparer.discrepancies(found)
        document = self.echo(params)
        document["systems_checked"] = [answer.name for answer in said.answers]
        document["systems_available"] = [answer.name for answer in said.answers if answer.failure is None]
        document["systems_failed"] = list(failures)
        if said.denied:
            document["systems_denied"] = list(said.denied)
        stale = {answer.name: int(answer.age_s) for answer in said.answers if answer.age_s is not None}
        if stale:
            document["systems_stale"] = stale
        document["failures"] = {name: failure.document for name, failure in failures.items()}
        knows = {answer.name: answer.found for answer in said.answers if answer.failure is None}
        document.update({field: knows.get(name, self._unknown) for name, field in self._found_fields})
        document["complete"] = not failures
        document["discrepancy_count"] = len(discrepancies)
        document["discrepancies"] = discrepancies
        if self._action.include_data:
            document["data"] = found
        return document

    def shortfall(self, said: Answers) -> GatewayError | None:
        """The 503 that too few answers mean, with the smallest wait after which there could be enough.

        The wait is not spread yet: whoever tells it does that, once.
        """
        failures = said.failures
        missing = self._action.require - (len(said.answers) - len(failures))
        waits_s = sorted(_wait_s(failure) for failure in failures.values())
        needed_s = [_wait_s(failures[name]) for name in self._required if name in failures]
        if missing <= 0 and not needed_s:
            return None
        if missing > 0:
            needed_s.append(waits_s[min(missing, len(waits_s)) - 1] if waits_s else 1.0)
        available = len(said.answers) - len(failures)
        return GatewayError(
            _code(failures),
            f"{available} of {len(said.answers)} systems answered, which is too few.",
            retry_after_s=max(needed_s),
            reason=said.failures_in_words,
        )


def _wait_s(failure: Failure) -> float:
    return 1.0 if failure.wait_s is None else failure.wait_s


def _code(failures: Mapping[str, Failure]) -> str:
    """The one reason that all failures share, where it is a 503; else that systems failed."""
    codes = {failure.code for failure in failures.values()}
    code = codes.pop() if len(codes) == 1 else "upstream_error"
    return code if code in KINDS and KINDS[code].status == _UNAVAILABLE else "upstream_error"
