"""`/status` in words: what is broken, since when, why, at what cost, and what comes next.

Rules: made of the merged document alone, so that the page, the command line and whoever reads JSON say the same. Codes
become words here. What IAM causes is told once, of IAM, not of every route.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.admin.effect import (
    NEXT,
    OWN,
    capital,
    cause_unknown,
    effect_of,
    lasting,
    others_of,
    past,
    said,
    shares_of,
    without_others,
)
from gateway.admin.figures import QUIET_S
from gateway.admin.now import is_bad, state_of, why

Document = dict[str, Any]

RECENT_S: Final = 300.0
SLOW_MS: Final = 1000.0
_NAMED: Final = 4
_LAST: Final = re.compile(r"last: (\w+)")
_SEVERITIES: Final = ("down", "failing", "warning", "over")


def problems(document: Document) -> list[Document]:
    """`{severity, harm, title, text, effect, next, counted, requests, since_s, breaker}`, worst first.

    `text` says why and nothing else, `effect` what it costs callers, `next` what happens or helps. `counted` is
    the time that the figures of `effect` are of. `harm`: `fail`, `late` (slow or old answers) or `none`.
    `breaker`: whose next trial would help, else None.
    """
    found = [*_of_iam(document), *_of_upstreams(document), *_of_origins(document), *_of_own(document)]
    found += [*_of_operation(document), *_of_shadow(document)]
    found += _over(document)
    return sorted(found, key=lambda one: (_SEVERITIES.index(one["severity"]), -one["requests"]))


def _of_iam(document: Document) -> Iterator[Document]:
    iam, breaker = document["iam"], document["breakers"].get("iam")
    if breaker is None:
        return
    outage = _lasting_outage(document, "iam", "iam")
    each = [outage] if outage else []
    cost = effect_of(each, "all routes")
    harm = "late" if outage and outage["requests"] and not outage["errors"] else "fail"
    more: Document = {"counted": _counted(each), "harm": harm}
    since_s = outage["since_s"] if outage else _lasts_since(document, "circuit", "iam") or breaker["opened_at_s"]
    effect = f"{cost} {_effect(document)}"
    if breaker["forced"] == "open":
        text, coming = (
            "An operator holds its circuit open.",
            "The gateway asks IAM again when an operator chooses Auto.",
        )
        yield _problem("down", "IAM is not asked", text, since_s, effect=effect, next=coming, **more)
    elif breaker["state"] != "closed":
        cause = _with_reason(said(breaker["last_failure"]), iam.get("last_error"), breaker["last_failure"])
        answered_s = iam.get("answered_at_s")
        if answered_s and answered_s > (breaker["opened_at_s"] or 0.0):
            cause = f"circuit open, IAM answered {document['time_s'] - answered_s:.0f} s ago"
        coming = _trial("IAM", [breaker])
        yield _problem("down", "IAM is down", f"{capital(cause)}.", since_s, "iam", effect, next=coming, **more)
    elif slow := _slow_since(document):
        yield _slow(document, slow)
    elif outage and not _just_closed(document):
        cause = max(outage["causes"], key=lambda code: outage["causes"][code], default="")
        text = _with_reason(said(cause), iam.get("last_error"), cause)
        coming = "The gateway goes on asking IAM. Look at the log of IAM."
        yield _problem(
            "failing", "IAM does not decide every request", f"{text}.", since_s, effect=cost, next=coming, **more
        )
    elif breaker["consecutive_failures"]:
        failure = breaker["last_failure"]
        text = f"{breaker['consecutive_failures']} calls in a row failed: "
        text += _with_reason(said(failure), iam.get("last_error"), failure)
        at_s = (iam.get("last_error") or {}).get("at_s")
        yield _problem("failing", "IAM is failing", f"{text}.", at_s, harm="late")


def _just_closed(document: Document) -> bool:
    """Whether the circuit of IAM closed a moment ago: the outage is over, though not long enough to be counted so."""
    return any(
        one["until_s"] is not None and document["time_s"] - one["until_s"] < QUIET_S
        for one in document["outages"]
        if (one["what"], one["name"]) == ("circuit", "iam")
    )


def _slow(document: Document, slow: Document) -> Document:
    """Its calls are counted, since a request that IAM keeps waiting is an answer like others."""
    p50, p95 = (f"{document['iam']['latency_ms'][name]:,.0f} ms" for name in ("p50", "p95"))
    text = f"IAM answers slowly: half of the calls take {p50} or longer, one in twenty {p95}. {cause_unknown('IAM')}"
    calls, late = slow["requests"], slow["errors"]
    effect = f"All routes that ask IAM: {calls:,} calls to IAM, {late:,} took 1 s or longer, {calls - late:,} normal."
    failed = sum(
        one["errors"]
        for one in document["outages"]
        if one["what"] == "iam" and (one["until_s"] or document["time_s"]) >= slow["since_s"]
    )
    effect += f" {failed:,} {'request' if failed == 1 else 'requests'} got 503 because of it." if failed else ""
    coming = "The gateway goes on asking and waits. If too many calls time out, its IAM circuit opens."
    return _problem(
        "failing",
        "IAM is slow",
        text,
        slow["since_s"],
        effect=effect,
        next=f"{coming} {_effect(document, 'then')}",
        counted=_counted([slow]),
        harm="fail" if failed else "late",
    )


def _trial(whom: str, breakers: Iterable[Document]) -> str:
    """When a circuit is tried again, without anybody's doing."""
    circuits = list(breakers)
    if any(one["state"] == "half_open" for one in circuits):
        return f"One request is trying {whom} now."
    left_s = min((one["remaining_s"] for one in circuits), default=0.0)
    when = f"in {math.ceil(left_s)} s" if left_s > 0 else "with the next request"
    return f"The gateway tries {whom} again {when}. Check that {whom} runs and can be reached from here."


def _slow_since(document: Document) -> Document | None:
    """A few slow calls among many are none of an operator's business."""
    slow = _lasting_outage(document, "slow", "iam")
    return slow if slow and (document["iam"]["latency_ms"]["p95"] or 0.0) >= SLOW_MS else None


def _effect(document: Document, when: str = "now") -> str:
    """What the configuration says of an IAM that is down."""
    summary = (
        str(document["config"]["failure_summary"]).removeprefix("if IAM is down: ").removeprefix("If IAM is down: ")
    )
    summary = re.sub(r"\b(serves?) stale\b", lambda found: found[1].replace("serve", "use") + " old permits", summary)
    return f"{capital(when)}: {summary}." if summary else ""


def _of_upstreams(document: Document) -> Iterator[Document]:
    """Routes that answer 5xx or stand in, and circuits that are open, together by upstream."""
    groups: dict[str, _Group] = {}
    rows = {route["id"]: route for route in document["routes"]}
    for outage in document["outages"]:
        if outage["until_s"] is not None or outage["what"] != "route" or outage["name"] not in rows:
            continue
        causes = _upstream_causes(outage)
        if causes:
            row = rows[outage["name"]]
            group = groups.setdefault(row["to"] or row["id"], _Group())
            group.routes[row["id"]] = without_others(outage, causes)
            group.since.append(outage["since_s"])
            group.causes.update(causes)
    for name, breaker in document["breakers"].items():
        if breaker["kind"] == "upstream" and breaker["state"] != "closed":
            row = rows.get(name) or rows.get(name.rpartition(".")[0])
            part = name.rpartition(".")[2] if name not in rows else ""
            group = groups.setdefault(part or (row["to"] if row else name), _Group())
            group.circuits[name] = breaker
            group.since.append(_lasts_since(document, "circuit", name) or breaker["opened_at_s"])
            if breaker["last_failure"]:
                group.causes.setdefault(breaker["last_failure"], 0)
    for name, group in groups.items():
        yield group.problem(name, document)


@dataclass(slots=True)
class _Group:
    """What is wrong with one upstream."""

    routes: dict[str, Document] = field(default_factory=dict)
    circuits: dict[str, Document] = field(default_factory=dict)
    since: list[float | None] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)

    def problem(self, name: str, document: Document) -> Document:
        """As it is told."""
        telling = [code for code, _ in self.causes.most_common() if code != "upstream_circuit_open"]
        cause = (telling or [*self.causes, ""])[0]
        forced = any(breaker["forced"] for breaker in self.circuits.values())
        how = "is not asked: an operator holds its circuit open" if forced else said(cause)
        reason = "An operator holds its circuit open" if forced else capital(_reason_of(document, name, cause))
        each = list(self.routes.values())
        failed = sum(one["errors"] for one in each)
        effect = f"{effect_of(each)}{others_of(self.routes, document) if each else ''} {self._shares()}"
        return _problem(
            "down" if self.circuits or not self._answers() else "failing",
            f"Upstream {name} {how}",
            f"{reason}." if reason else f"{name} itself {how}. {cause_unknown(name)}",
            min((since for since in self.since if since), default=None),
            None if forced else next(iter(self.circuits), None),
            effect,
            failed + sum(sum(one["degraded"].values()) for one in each),
            next=self._next(name, document, forced=forced),
            counted=_counted(each),
            harm="fail" if failed or not each else "late",
        )

    def _shares(self) -> str:
        """By route, where there are several."""
        shares = [f"{name}: {shares_of(one)}" for name, one in self.routes.items()] if len(self.routes) > 1 else []
        shares += [f"{name}: circuit {state_of(one)}" for name, one in self.circuits.items() if name not in self.routes]
        more = f" and {len(shares) - _NAMED} more" if len(shares) > _NAMED else ""
        return f"{'; '.join(shares[:_NAMED])}{more}." if shares else ""

    def _next(self, name: str, document: Document, *, forced: bool) -> str:
        if forced:
            return f"The gateway sends requests to {name} again when an operator chooses Auto."
        if self.circuits:
            coming = _trial(name, self.circuits.values())
        else:
            coming = f"The gateway goes on sending requests to {name}."
        kept_s = [
            rule["max_stale_s"]
            for route in document["routes"]
            if sum(self.routes.get(route["id"], {}).get("degraded", {}).values())
            for rule in route["if_upstream_fails"]
            if rule.get("max_stale_s")
        ]
        return (
            f"{coming} No answer is used for longer than {lasting(min(kept_s))} after it became old."
            if kept_s
            else coming
        )

    def _answers(self) -> bool:
        """Whether some requests are still answered as usual."""
        return any(one["errors"] + sum(one["degraded"].values()) < one["requests"] for one in self.routes.values())


def _upstream_causes(outage: Document) -> dict[str, int]:
    return {code: count for code, count in outage["causes"].items() if not code.startswith("iam_") and code not in OWN}


def _of_own(document: Document) -> Iterator[Document]:
    """What is neither IAM's fault nor an upstream's."""
    found: dict[str, list[Document]] = {}
    for outage in document["outages"]:
        if outage["until_s"] is None and outage["what"] == "route":
            for code in OWN.keys() & outage["causes"].keys():
                found.setdefault(code, []).append(outage)
    limits = {route["id"]: route.get("max_concurrency") for route in document["routes"]}
    for code, outages in sorted(found.items()):
        title, text = OWN[code]
        names = [one["name"] or "no route" for one in outages]
        if code == "overloaded":
            title = f"Route{'s' if len(names) > 1 else ''} {', '.join(names[:_NAMED])}: {title.lower()}"
            told = [f"{name} takes {limits[name]}" for name in names if limits.get(name)]
            text += f" At a time {', '.join(told[:_NAMED])}." if told else ""
        each = [without_others(one, {code: one["causes"][code]}) for one in outages]
        effect = effect_of(each) + others_of(names, document)
        yield _problem(
            "failing",
            title,
            text,
            min(one["since_s"] for one in outages),
            effect=effect,
            requests=sum(one["errors"] for one in each),
            next=NEXT[code],
            counted=_counted(each),
        )


def _with_reason(words: str, error: Document | None, code: str) -> str:
    """The words with the address and the cause, if that is what failed last."""
    return f"{words} ({error['reason']})" if error and error["code"] == code and error["reason"] else words


def _reason_of(document: Document, upstream: str, code: str) -> str:
    """What the upstream's connections say of it, as `connect 10.1.2.3:80: refused`."""
    origins = document["upstreams"].get(upstream, {}).get("origins", ())
    errors = [origin["last_error"] for origin in origins if origin.get("last_error")]
    latest = max(errors, key=lambda error: error["at_s"], default=None)
    return latest["reason"] if latest and latest["code"] == code else ""


def _of_origins(document: Document) -> Iterator[Document]:
    for upstream in document["upstreams"].values():
        bad = [origin for origin in upstream["origins"] if is_bad(origin)]
        if bad and len(upstream["origins"]) > 1:
            reasons = "; ".join(f"{origin['origin']} {why(origin)}" for origin in bad[:_NAMED])
            yield _problem(
                "warning",
                f"{upstream['name']}: {len(bad)} of {len(upstream['origins'])} origins set aside",
                f"{reasons}. The others serve.",
                min((origin["last_error"]["at_s"] for origin in bad if origin.get("last_error")), default=None),
            )


def _of_operation(document: Document) -> Iterator[Document]:
    config = document["config"]
    missing = document["workers_expected"] - document["workers"]
    if document["draining"]:
        yield _problem("warning", "Draining", "What is in flight is finished, then this gateway ends.", None)
    if missing > 0:
        text = f"{missing} of {document['workers_expected']} workers do not answer."
        yield _problem("failing", "Workers are missing", text, None)
    if len(config["hashes"]) > 1:
        yield _problem("warning", "Workers run on different configurations", "Reload.", None)
    if config["reload_problems"]:
        lines = config["reload_problems"]
        text = lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")
        effect = "The previous configuration stays in use. No request is affected."
        title, since_s = "The new configuration was rejected (no user affected)", config["refused_since_s"]
        coming = "Correct the file and load it again. The gateway also tries it when the file changes."
        yield _problem("warning", title, text, since_s, effect=effect, next=coming)


def _of_shadow(document: Document) -> Iterator[Document]:
    """A second IAM that would decide differently."""
    shadow, now_s = document["shadow"], document["time_s"]
    rows = {} if shadow is None else shadow["differences"]
    rows = {name: row for name, row in rows.items() if now_s - row["latest_s"] < RECENT_S}
    if shadow is not None and rows:
        counts = {name: shadow["routes"][name]["different"] for name in rows}
        worst = sorted(rows, key=lambda name: -counts[name])[:_NAMED]
        text = "; ".join(f"{name}: it {rows[name]['said']} ({counts[name]:,} times)" for name in worst)
        since_s = min(row["since_s"] for row in rows.values())
        effect = (
            f"{shadow['different']:,} of {shadow['same'] + shadow['different']:,} decisions differ since the start."
        )
        effect += " No request is affected: IAM decides."
        title, coming = (
            "The shadow IAM disagrees with IAM (no user affected)",
            "Compare the rules of both for these checks.",
        )
        yield _problem("warning", title, f"{text}.", since_s, effect=effect, next=coming)


def _over(document: Document) -> Iterator[Document]:
    """What ended a moment ago: whoever looks now was probably called for that."""
    lasting = {(one["what"], one["name"]) for one in document["outages"] if one["until_s"] is None}
    told = set()
    for outage in document["outages"]:
        key = (outage["what"], outage["name"])
        over = outage["what"] == "circuit" and outage["until_s"] and document["time_s"] - outage["until_s"] < RECENT_S
        if over and key not in lasting and key not in told:
            told.add(key)
            name = "IAM" if outage["name"] == "iam" else outage["name"]
            reason = next(iter(outage["causes"]), "")
            code = _LAST.search(reason)
            cause = past(said(code[1] if code else reason))
            text = f"{capital(cause if cause.startswith('IAM') else f'{name} {cause}')}."
            own = _was_cost(document, outage)
            cost = effect_of(own, "all routes" if name == "IAM" else "")
            counted = _counted(own or [outage])
            yield _problem("over", f"{name} answers again", text, outage["until_s"], effect=cost, counted=counted)


def _was_cost(document: Document, circuit: Document) -> list[Document]:
    """What happened to requests during an outage that is over."""
    what = "iam" if circuit["name"] == "iam" else "route"
    return [
        {**one, "until_s": one["until_s"] or circuit["until_s"]}
        for one in document["outages"]
        if (one["what"], one["name"]) == (what, circuit["name"])
        and one["since_s"] <= circuit["until_s"]
        and (one["until_s"] or circuit["until_s"]) >= circuit["since_s"]
    ]


def _counted(outages: Iterable[Document]) -> Document | None:
    """From when to when what is counted of outages was counted; `until_s` None while one lasts."""
    each = list(outages)
    if not each:
        return None
    ends = [one["until_s"] for one in each]
    return {"since_s": min(one["since_s"] for one in each), "until_s": None if None in ends else max(ends)}


def _lasting_outage(document: Document, what: str, name: str) -> Document | None:
    return next(
        (one for one in document["outages"] if (one["what"], one["name"], one["until_s"]) == (what, name, None)), None
    )


def _lasts_since(document: Document, what: str, name: str) -> float | None:
    """Since when something is broken: a circuit opens again after each failed trial, and that is one outage."""
    outage = _lasting_outage(document, what, name)
    return None if outage is None else float(outage["since_s"])


def _problem(
    severity: str,
    title: str,
    text: str,
    since_s: float | None,
    breaker: str | None = None,
    effect: str = "",
    requests: int = 0,
    **more: Any,
) -> Document:
    about = {"severity": severity, "title": title, "text": text.strip(), "effect": effect.strip(), "requests": requests}
    harm = "fail" if severity in {"down", "failing"} else "none"
    return {**about, "since_s": since_s, "breaker": breaker, "harm": harm, "next": "", "counted": None, **more}
