"""`/status` in words: what is broken, since when, why, at what cost; what each route serves now; how upstreams are.

Rules: made of the merged document alone, so that the page, the command line and whoever reads JSON say the same. Codes
become words here. What IAM causes is told once, of IAM, not of every route.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Document = dict[str, Any]

WORDS: Final = {
    "upstream_timeout": "times out",
    "upstream_unreachable": "cannot be reached",
    "upstream_circuit_open": "is not asked: its circuit is open",
    "upstream_protocol_error": "does not speak proper HTTP",
    "upstream_overloaded": "has no connection free",
    "deadline_exceeded": "takes longer than the deadline",
    "iam_timeout": "IAM does not answer in time",
    "iam_unreachable": "IAM cannot be reached",
    "iam_error": "IAM answers with errors",
    "iam_invalid_response": "IAM's answers make no sense",
    "iam_auth_error": "IAM refuses the gateway's token",
    "iam_circuit_open": "IAM is not asked: its circuit is open",
    "iam_rejected": "IAM refuses the questions",
}
OWN: Final = {
    "overloaded": (
        "Too many requests at the same time",
        "More requests come in than max_concurrency lets through. The ones above the limit get 503.",
    ),
    "iam_overloaded": (
        "Too many questions wait for IAM",
        "More questions come in than IAM answers: iam.max_queue is full. The ones above it get 503.",
    ),
    "identity_unavailable": ("Tokens cannot be verified", "The keys of the issuer cannot be had, see the log."),
    "internal_error": ("The gateway itself has an error", "A bug: the log has all of it."),
    "draining": ("Requests come in while the gateway stops", "Its load balancer still sends requests."),
}
"""What is no upstream's fault and not IAM's: the title and the reason of the problem."""
_SERVED: Final = {
    "stale": "served by a remembered permit",
    "local": "decided by the embedded policies",
    "fallback": "given the route's own answer",
    "allow": "let through unchecked",
    "fail_open": "let through unchecked",
    "partial": "answered in part",
}
RECENT_S: Final = 300.0
SLOW_MS: Final = 1000.0
_NAMED: Final = 4
_LAST: Final = re.compile(r"last: (\w+)")
_SEVERITIES: Final = ("down", "failing", "warning", "over")


def problems(document: Document) -> list[Document]:
    """`{severity, title, text, effect, requests, since_s, breaker}`, worst first: what cost most `requests`.

    `text` says why, `effect` what it costs callers; `breaker`: whose next trial would help, else None.
    """
    found = [*_of_iam(document), *_of_upstreams(document), *_of_origins(document), *_of_own(document)]
    found += [*_of_operation(document), *_of_shadow(document)]
    found += _over(document)
    return sorted(found, key=lambda one: (_SEVERITIES.index(one["severity"]), -one["requests"]))


def add_words(document: Document) -> None:
    """To each upstream its `state` and `text`, to each route what it serves `now`."""
    for upstream in document["upstreams"].values():
        upstream["state"], upstream["text"] = _upstream_now(upstream)
    not_closed = {name: one for name, one in document["breakers"].items() if one["state"] != "closed"}
    iam_away = not_closed.get("iam")
    failing = {one["name"]: one for one in document["outages"] if one["what"] == "route" and one["until_s"] is None}
    for route in document["routes"]:
        own = [one for name, one in not_closed.items() if name == route["id"] or name.startswith(route["id"] + ".")]
        route["now"] = _route_now(route, iam_away, own, failing.get(route["id"]))
        for breaker in own:
            for name in route["to"].split(", "):
                if name in document["upstreams"] and _concerns(breaker, route, name):
                    document["upstreams"][name].update(state="down", text=f"circuit {_state(breaker)}")


def said(code: str) -> str:
    """A code in words."""
    if code.isdigit() or code.startswith("http_"):
        return f"answers {code.removeprefix('http_')}"
    return WORDS.get(code, code.replace("_", " ") or "reason not known")


def _of_iam(document: Document) -> Iterator[Document]:
    iam, breaker = document["iam"], document["breakers"].get("iam")
    if breaker is None:
        return
    outage = _lasting_outage(document, "iam", "iam")
    cost = cost_of([outage] if outage else [])
    since_s = outage["since_s"] if outage else _lasts_since(document, "circuit", "iam") or breaker["opened_at_s"]
    if breaker["forced"] == "open":
        text = "An operator holds its circuit open."
        yield _problem("down", "IAM is not asked", text, since_s, None, f"{_effect(document)} {cost}")
    elif breaker["state"] != "closed":
        cause = _with_reason(said(breaker["last_failure"]), iam.get("last_error"), breaker["last_failure"])
        answered_s = iam.get("answered_at_s")
        if answered_s and answered_s > (breaker["opened_at_s"] or 0.0):
            cause = f"circuit open, IAM answered {document['time_s'] - answered_s:.0f} s ago"
        yield _problem("down", "IAM is down", f"{_capital(cause)}.", since_s, "iam", f"{_effect(document)} {cost}")
    elif slow := _slow_since(document):
        p50, p95 = (f"{iam['latency_ms'][name]:,.0f} ms" for name in ("p50", "p95"))
        text = f"Half of its calls take {p50} or longer, one in twenty {p95}."
        effect = f"Every request that asks IAM waits so long. {cost}"
        yield _problem("failing", "IAM is slow", text, slow, None, effect)
    elif outage:
        cause = max(outage["causes"], key=lambda code: outage["causes"][code], default="")
        text = _with_reason(said(cause), iam.get("last_error"), cause)
        yield _problem("failing", "IAM does not decide every request", f"{text}.", since_s, None, cost)
    elif breaker["consecutive_failures"]:
        failure = breaker["last_failure"]
        text = f"{breaker['consecutive_failures']} calls in a row failed: "
        text += _with_reason(said(failure), iam.get("last_error"), failure)
        yield _problem("failing", "IAM is failing", f"{text}.", (iam.get("last_error") or {}).get("at_s"))


def _slow_since(document: Document) -> float | None:
    """A few slow calls among many are none of an operator's business."""
    slow = _lasting_outage(document, "slow", "iam")
    return slow["since_s"] if slow and (document["iam"]["latency_ms"]["p95"] or 0.0) >= SLOW_MS else None


def _effect(document: Document) -> str:
    summary = str(document["config"]["failure_summary"])
    return _capital(re.sub("^if IAM is down: ", "", summary)) + "." if summary else ""


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
            group.routes[row["id"]] = _of_the_upstream(outage)
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
        why = "is not asked: an operator holds its circuit open" if forced else said(cause)
        reason = "" if forced else _reason_of(document, name, cause)
        shares = [self._share(route) for route in self.routes]
        shares += [
            f"{each}: circuit {_state(self.circuits[each])}" for each in self.circuits if each not in self.routes
        ]
        more = f" and {len(shares) - _NAMED} more" if len(shares) > _NAMED else ""
        text = f"{_capital(reason)}. " if reason else ""
        text += f"Route{'s' if len(shares) > 1 else ''} {'; '.join(shares[:_NAMED])}{more}."
        return _problem(
            "down" if self.circuits or not self._answers() else "failing",
            f"Upstream {name} {why}",
            text,
            min((since for since in self.since if since), default=None),
            None if forced else next(iter(self.circuits), None),
            cost_of(self.routes.values()),
            sum(one["errors"] + sum(one["degraded"].values()) for one in self.routes.values()),
        )

    def _answers(self) -> bool:
        """Whether some requests are still answered as usual."""
        return any(one["errors"] + sum(one["degraded"].values()) < one["requests"] for one in self.routes.values())

    def _share(self, route: str) -> str:
        outage = self.routes[route]
        whole, stood_in = max(1, outage["requests"]), sum(outage["degraded"].values())
        shares = [f"{round(100 * outage['errors'] / whole)} % 5xx"] if outage["errors"] or not stood_in else []
        shares += [
            f"{round(100 * count / whole)} % {_served(mode, upstream=True)}"
            for mode, count in outage["degraded"].items()
        ]
        shares += [f"circuit {_state(self.circuits[route])}"] if route in self.circuits else []
        return f"{route}: {', '.join(shares)}"


def _of_the_upstream(outage: Document) -> Document:
    """Without what it is not to blame for."""
    others = sum(count for code, count in outage["causes"].items() if code in OWN or code.startswith("iam_"))
    return {**outage, "errors": max(0, outage["errors"] - others)}


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
        shares = [
            f"{one['name'] or 'no route'}: {round(100 * one['causes'][code] / max(1, one['requests']))} % refused"
            + (f", limit {limits[one['name']]}" if code == "overloaded" and limits.get(one["name"]) else "")
            for one in outages[:_NAMED]
        ]
        refused, asked = sum(one["causes"][code] for one in outages), sum(one["requests"] for one in outages)
        since_s = min(one["since_s"] for one in outages)
        cost = f"Of {asked:,} requests: {refused:,} refused with 5xx."
        yield _problem("failing", title, f"{text} Route {'; '.join(shares)}.", since_s, None, cost, refused)


def cost_of(outages: Iterable[Document]) -> str:
    """What outages cost so far, in words; empty if nothing."""
    each = list(outages)
    refused = sum(one["errors"] for one in each)
    degraded = Counter[str]()
    for one in each:
        degraded.update(one["degraded"])
    upstream = any(one["what"] == "route" for one in each)
    parts = [f"{refused:,} refused with 5xx"] if refused else []
    parts += [f"{count:,} {_served(mode, upstream=upstream)}" for mode, count in degraded.most_common()]
    if not parts:
        return ""
    return f"Of {sum(one['requests'] for one in each):,} requests: {', '.join(parts)}."


def _served(mode: str, *, upstream: bool) -> str:
    if mode == "stale" and upstream:
        return "served from kept answers"
    return _SERVED.get(mode, f"served by {mode}")


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
        bad = [origin for origin in upstream["origins"] if _is_bad(origin)]
        if bad and len(upstream["origins"]) > 1:
            why = "; ".join(f"{origin['origin']} {_why(origin)}" for origin in bad[:_NAMED])
            yield _problem(
                "warning",
                f"{upstream['name']}: {len(bad)} of {len(upstream['origins'])} origins set aside",
                f"{why}. The others serve.",
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
        effect = "The configuration before it goes on serving: no request is affected."
        yield _problem("warning", "The new configuration is refused", text, config["refused_since_s"], None, effect)


def _of_shadow(document: Document) -> Iterator[Document]:
    """A second IAM that would decide otherwise."""
    shadow, now_s = document["shadow"], document["time_s"]
    rows = {} if shadow is None else shadow["differences"]
    rows = {name: row for name, row in rows.items() if now_s - row["latest_s"] < RECENT_S}
    if shadow is not None and rows:
        counts = {name: shadow["routes"][name]["different"] for name in rows}
        worst = sorted(rows, key=lambda name: -counts[name])[:_NAMED]
        text = "; ".join(f"{name}: it {rows[name]['said']} ({counts[name]:,} times)" for name in worst)
        since_s = min(row["since_s"] for row in rows.values())
        effect = f"{shadow['different']:,} of {shadow['same'] + shadow['different']:,} decisions differ."
        effect += " No request is affected: IAM decides."
        yield _problem("warning", "The second IAM decides otherwise", f"{text}.", since_s, None, effect)


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
            lasted = _lasting(outage["until_s"] - outage["since_s"])
            text = f"It was not asked for {lasted}: {said(code[1]) if code else reason or 'reason not known'}."
            yield _problem("over", f"{name} answers again", text, outage["until_s"], None, _was_cost(document, outage))


def _was_cost(document: Document, circuit: Document) -> str:
    """What happened to requests during an outage that is over."""
    what = "iam" if circuit["name"] == "iam" else "route"
    own = [
        one
        for one in document["outages"]
        if (one["what"], one["name"]) == (what, circuit["name"])
        and one["since_s"] <= circuit["until_s"]
        and (one["until_s"] or circuit["until_s"]) >= circuit["since_s"]
    ]
    return cost_of(own)


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
) -> Document:
    about = {"severity": severity, "title": title, "text": text.strip(), "effect": effect.strip(), "requests": requests}
    return {**about, "since_s": since_s, "breaker": breaker}


def _route_now(route: Document, iam: Document | None, own: list[Document], outage: Document | None) -> Document:
    if iam is not None and route["access"] == "checks":
        several = len(route["if_iam_fails"]) > 1
        texts = [
            f"{', '.join(rule['methods'])}: {rule['text']}" if several else rule["text"]
            for rule in route["if_iam_fails"]
        ]
        return {"state": "iam", "texts": texts}
    if own and any(rule["mode"] == "stale" for rule in route["if_upstream_fails"]):
        return {"state": "upstream", "texts": ["kept answers, else 503: the circuit is open"]}
    if own and "," in route["to"]:
        return {"state": "upstream", "texts": [f"partial: {', '.join(one['name'] for one in own)} not asked"]}
    if own:
        return {"state": "upstream", "texts": ["503: the circuit of its upstream is open"]}
    causes = {} if outage is None else outage["causes"]
    if causes:
        return {"state": "failing", "texts": [_failing(route, max(causes, key=lambda code: causes[code]))]}
    return {"state": "", "texts": ["as usual"]}


def _failing(route: Document, cause: str) -> str:
    if cause in OWN:
        return f"partly 503: {OWN[cause][0].lower()}"
    stale = any(rule["mode"] == "stale" for rule in route["if_upstream_fails"]) and not cause.startswith("iam_")
    return f"{'kept answers, else ' if stale else ''}5xx: {said(cause)}"


def _upstream_now(upstream: Document) -> tuple[str, str]:
    bad = [origin for origin in upstream["origins"] if _is_bad(origin)]
    if not bad:
        return "well", "answers"
    if len(upstream["origins"]) == 1 and not bad[0]["ill"] and not bad[0].get("last_error"):
        return "partly", "answers with errors"
    if len(bad) < len(upstream["origins"]):
        return "partly", f"{len(bad)} of {len(upstream['origins'])} origins set aside"
    return "down", _why(bad[0])


def _is_bad(origin: Mapping[str, Any]) -> bool:
    return bool(origin["set_aside_s"] > 0 or origin.get("ill"))


def _why(origin: Mapping[str, Any]) -> str:
    error = origin.get("last_error") or {}
    if error:
        return error.get("reason") or said(error.get("code", ""))
    return "its health check fails" if origin.get("ill") else "answers with errors"


def _concerns(breaker: Document, route: Document, upstream: str) -> bool:
    return breaker["name"] == route["id"] or breaker["name"] == f"{route['id']}.{upstream}" or "," not in route["to"]


def _state(breaker: Document) -> str:
    return "held open" if breaker["forced"] == "open" else str(breaker["state"]).replace("_", "-")


def _lasting(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # two minutes


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
