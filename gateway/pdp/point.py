"""The embedded decision point: questions in, decisions out, by Cedar policies, in this process.

Rules of a verdict, after Cedar's own semantics (forbid overrides permit, nothing permits by default):

- A satisfied forbid denies. No satisfied permit denies; a permit that fails while it is evaluated is not satisfied.
- A permit decides only if every forbid could be evaluated. Cedar skips a forbid that fails (a missing attribute, a
  wrong type); here the verdict is then UNKNOWN, because what it would have said is not known.
- Every policy that fails is logged, once.
- A question that Cedar cannot hold is UNKNOWN too, with status 400.

Policies and entities never change after loading, and Cedar has neither clock nor randomness: a verdict depends on the
question alone, so a bounded number of verdicts is remembered. Deliberately absent: reloading (the owner builds a new
point and swaps it), and any text made of a caller's data.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.model.permit import Decision, Outcome, Question
from gateway.pdp.cedar import cedarpy, check_installed
from gateway.pdp.entity_file import load_entities
from gateway.pdp.policies import Policies, load_policies
from gateway.pdp.problem import PolicyError, Problem
from gateway.pdp.question import OPAQUE_TYPE, Asked, EntityStore, Malformed, read_question
from gateway.resilience.deadline import Deadline
from gateway.telemetry.observer import Span

MAX_REMEMBERED: Final = 10_000
MAX_REMEMBERED_CHARS: Final = 4096
CHUNK: Final = 16
SLICE_S: Final = 0.002
NAMELESS: Final = "(unnamed policy)"
_FAILED_POLICY: Final = re.compile(r"while evaluating policy `([^`]+)`")
_log = logging.getLogger("gateway.pdp")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policies say of one question.

    `policies`: the deciding ones, `FILE:LINE:COL` (none: nothing permits it). `failed`: those that could not be
    evaluated. `status` and `message` say why a verdict is UNKNOWN: 400 for a question that cannot be asked, 500 for
    policies that could not be evaluated. `message` holds no value of the question.
    """

    outcome: Outcome
    policies: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    status: int = 0
    message: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it is a permit; UNKNOWN is none."""
        return self.outcome is Outcome.ALLOW

    @property
    def reason(self) -> str:
        """Why, in one line."""
        why = self.message or ", ".join(self.policies) or "no policy permits it"
        return why if self.message or not self.failed else f"{why}; could not be evaluated: {', '.join(self.failed)}"


class EmbeddedDecisionPoint:
    """Satisfies the seam `DecisionPoint`. `source` is what its decisions say of themselves: `iam` or `local`."""

    def __init__(self, policies: Policies, entities: EntityStore, *, source: str = "iam") -> None:
        self.policy_count = policies.count
        self.entity_count = len(entities)
        self._policies = policies
        self._entities = entities
        self._allow = Decision(Outcome.ALLOW, source=source)
        self._deny = Decision(Outcome.DENY, source=source)
        self._source = source
        self._ids = _ids_by_type((*entities.uids, *policies.references))
        self._remembered: dict[tuple[str, str], Decision] = {}
        self._complained: set[str] = set()

    @classmethod
    def load(cls, folder: Path, *, source: str = "iam") -> EmbeddedDecisionPoint:
        """Every `*.cedar` of `folder` and its `entities.json`. Raises PolicyError with all mistakes."""
        problems: list[Problem] = []
        check_installed(folder)
        if not folder.is_dir():
            raise PolicyError([Problem(str(folder), 1, 1, "no-folder", "there is no such folder")])
        policies = load_policies(folder, problems)
        entities = load_entities(folder, problems)
        if policies is None or problems:
            raise PolicyError(problems)
        return cls(policies, EntityStore(entities, policies.references), source=source)

    def ids_of(self, cedar_type: str) -> tuple[str, ...]:
        """The ids of a type that entities.json or a policy names, in order."""
        return self._ids.get(cedar_type, ())

    def evaluate(self, document: Mapping[str, Any]) -> Verdict:
        """The verdict on one AuthZEN evaluation. Never raises for what it holds."""
        return self.evaluate_all([document])[0]

    def evaluate_all(self, documents: Sequence[Any]) -> list[Verdict]:
        """Verdicts on several evaluations, in order. Blocks for tens of microseconds each."""
        verdicts: list[Verdict | None] = []
        asked: list[Asked] = []
        for document in documents:
            try:
                asked.append(read_question(document))
                verdicts.append(None)
            except Malformed as error:
                verdicts.append(Verdict(Outcome.UNKNOWN, status=400, message=str(error)))
        answers = iter(self._judge(asked))
        return [verdict or next(answers) for verdict in verdicts]

    async def decide(
        self, questions: Sequence[Question], *, deadline: Deadline, request_id: str, span: Span
    ) -> list[Decision]:
        """Decisions on all questions, in order. Never raises; gives way to others every few milliseconds."""
        del deadline, request_id, span  # nothing here waits for anybody
        keys = [_key(question) for question in questions]
        decisions = [self._remembered.get(key) for key in keys]
        missing = [index for index, decision in enumerate(decisions) if decision is None]
        began = time.monotonic()
        for start in range(0, len(missing), CHUNK):
            if start and time.monotonic() - began > SLICE_S:
                await asyncio.sleep(0)
                began = time.monotonic()
            chunk = missing[start : start + CHUNK]
            for index, verdict in zip(chunk, self.evaluate_all([_document(questions[i]) for i in chunk]), strict=True):
                decisions[index] = self._decision(keys[index], verdict)
        return [decision for decision in decisions if decision is not None]

    async def aclose(self) -> None:
        """Nothing to close."""

    def _decision(self, key: tuple[str, str], verdict: Verdict) -> Decision:
        if verdict.outcome is Outcome.UNKNOWN:
            code = "iam_rejected" if verdict.status < 500 else "iam_error"  # HTTP's own border
            fault = GatewayError(code, reason=verdict.message)
            return Decision(Outcome.UNKNOWN, source=self._source, fault=fault, isolated=True)
        decision = self._allow if verdict.allowed else self._deny
        if len(key[0]) + len(key[1]) <= MAX_REMEMBERED_CHARS:
            if len(self._remembered) >= MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[key] = decision
        return decision

    def _judge(self, asked: Sequence[Asked]) -> list[Verdict]:
        """One call to Cedar for all questions that bring the same properties, or none."""
        groups: dict[str, list[int]] = {}
        for index, question in enumerate(asked):
            groups.setdefault(question.attributes_text, []).append(index)
        verdicts: dict[int, Verdict] = {}
        for indexes in groups.values():
            group = [asked[index] for index in indexes]
            verdicts.update(zip(indexes, self._ask(group, self._entities_for(group)), strict=True))
        return [verdicts[index] for index in range(len(asked))]

    def _entities_for(self, group: Sequence[Asked]) -> cedarpy.Entities:
        attributes = group[0].attributes
        if not attributes:
            return self._entities.whole
        uids = {uid for question in group for uid in (question.principal, question.resource)}
        return self._entities.with_attributes(attributes, uids)

    def _ask(self, asked: Sequence[Asked], entities: cedarpy.Entities) -> list[Verdict]:
        requests = [question.request for question in asked]
        results = cedarpy.is_authorized_batch(requests, self._policies.handle, entities)
        return [self._verdict(question, result) for question, result in zip(asked, results, strict=True)]

    def _verdict(self, question: Asked, result: cedarpy.AuthzResult) -> Verdict:
        policies = tuple(sorted(result.diagnostics.reasons))
        if result.decision is cedarpy.Decision.NoDecision:
            return Verdict(Outcome.UNKNOWN, status=400, message="the question cannot be put to the policies")
        failed = tuple(self._complain(question, error) for error in result.diagnostics.errors)
        if result.decision is cedarpy.Decision.Deny:
            return Verdict(Outcome.DENY, policies, failed)
        if self._policies.forbids.isdisjoint(failed) and NAMELESS not in failed:
            return Verdict(Outcome.ALLOW, policies, failed)
        message = f"a forbid policy could not be evaluated: {', '.join(failed)}"
        return Verdict(Outcome.UNKNOWN, policies, failed, status=500, message=message)

    def _complain(self, question: Asked, error: str) -> str:
        """Log a failed policy once, and name it. What Cedar says may quote the principal, which may be a token."""
        found = _FAILED_POLICY.search(error)
        name = found[1] if found else NAMELESS
        if name not in self._complained:
            self._complained.add(name)
            secret = question.principal.type == OPAQUE_TYPE
            _log.warning("[pdp] policy %s could not be evaluated%s", name, "" if secret else f": {error}")
        return name


def _ids_by_type(uids: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    ids: dict[str, set[str]] = {}
    for entity_type, entity_id in uids:
        ids.setdefault(entity_type, set()).add(entity_id)
    return {entity_type: tuple(sorted(known)) for entity_type, known in ids.items()}


def _key(question: Question) -> tuple[str, str]:
    """All that the verdict depends on. An opaque subject's document holds its token; its key holds only a digest."""
    subject = question.subject
    return (subject.document if subject.identified else subject.key, question.check.fragment)


def _document(question: Question) -> dict[str, Any]:
    subject, check = question.subject, question.check
    document: dict[str, Any] = {
        "subject": {"type": subject.type, "id": subject.id, "properties": subject.properties},
        "action": check.action,
        "resource": check.resource,
    }
    if check.context is not None:
        document["context"] = check.context
    return document
