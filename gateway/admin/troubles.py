"""`/status` in words: what is broken, since when and why, worst first; what each route serves now; how upstreams are.

Rules: made of the merged document alone, so that the page, the command line and whoever reads JSON say the same. Codes
become words here. What IAM causes is told once, of IAM, not of every route.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    "iam_overloaded": "too many questions wait for IAM",
}
RECENT_S: Final = 300.0
SLOW_MS: Final = 1000.0
_NAMED: Final = 4
_SEVERITIES: Final = ("down", "failing", "warning", "over")


def problems(document: Document) -> list[Document]:
    """`{severity, title, text, since_s, breaker}`, worst first. `breaker`: whose next trial would help, else None."""
    found = [*_of_iam(document), *_of_upstreams(document), *_of_origins(document), *_of_operation(document)]
    found += _over(document)
    return sorted(found, key=lambda one: _SEVERITIES.index(one["severity"]))


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
    since_s = _lasts_since(document, "circuit", "iam") or breaker["opened_at_s"]
    if breaker["forced"] == "open":
        yield _problem("down", "IAM is not asked", f"An operator holds its circuit open. {_effect(document)}", since_s)
    elif breaker["state"] != "closed":
        cause = said(breaker["last_failure"])
        answered_s = iam.get("answered_at_s")
        if answered_s and answered_s > (breaker["opened_at_s"] or 0.0):
            cause = f"circuit open, IAM answered {document['time_s'] - answered_s:.0f} s ago"
        yield _problem("down", "IAM is down", f"{_capital(cause)}. {_effect(document)}", since_s, "iam")
    elif breaker["consecutive_failures"]:
        text = f"{breaker['consecutive_failures']} calls in a row failed: {said(breaker['last_failure'])}."
        yield _problem("failing", "IAM is failing", text, None)
    elif (iam["latency_ms"]["p95"] or 0) >= SLOW_MS:
        yield _problem("failing", "IAM is slow", f"One call in twenty takes {iam['latency_ms']['p95']:.0f} ms.", None)


def _effect(document: Document) -> str:
    asking = [route for route in document["routes"] if route["access"] == "checks"]
    closed = sum(all(rule["mode"] == "fail_closed" for rule in route["if_iam_fails"]) for route in asking)
    rest = len(asking) - closed
    parts = [f"{closed} of {len(document['routes'])} routes answer 503"] if closed else []
    parts += [f"{rest} still serve something, see the routes"] if rest else []
    return f"Meanwhile {', '.join(parts)}." if parts else "No route depends on it."


def _of_upstreams(document: Document) -> Iterator[Document]:
    """Routes that answer 5xx and circuits that are open, together by upstream."""
    groups: dict[str, list[tuple[Document | None, str, float | None, str]]] = {}
    rows = {route["id"]: route for route in document["routes"]}
    held: dict[str, str] = {}
    for outage in document["outages"]:
        if outage["until_s"] is not None or outage["what"] != "route" or outage["name"] not in rows:
            continue
        causes = {code: count for code, count in outage["causes"].items() if not code.startswith("iam_")}
        if causes:
            row = rows[outage["name"]]
            share = round(100 * outage["errors"] / max(1, outage["requests"]))
            cause = max(causes, key=lambda code: (code != "upstream_circuit_open", causes[code]))
            text = f"{row['id']}: {share} % 5xx"
            groups.setdefault(row["to"] or row["id"], []).append((row, text, outage["since_s"], cause))
    for name, breaker in document["breakers"].items():
        if breaker["kind"] == "upstream" and breaker["state"] != "closed":
            row = rows.get(name) or rows.get(name.rpartition(".")[0])
            part = name.rpartition(".")[2] if name not in rows else ""
            to = part or (row["to"] if row else name)
            text = f"{name}: circuit {_state(breaker)}"
            since_s = _lasts_since(document, "circuit", name) or breaker["opened_at_s"]
            groups.setdefault(to, []).append((row, text, since_s, breaker["last_failure"]))
            held.setdefault(to, name)
    for name, facts in groups.items():
        telling = [cause for _, _, _, cause in facts if cause and cause != "upstream_circuit_open"]
        cause = telling[0] if telling else facts[0][3]
        texts = list(dict.fromkeys(text for _, text, _, _ in facts))
        more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
        since_s = min((since for _, _, since, _ in facts if since), default=None)
        forced = name in held and document["breakers"][held[name]]["forced"]
        why = "is not asked: an operator holds its circuit open" if forced else said(cause)
        yield _problem(
            "down", f"{name} {why}", f"{'; '.join(texts[:_NAMED])}{more}.", since_s, None if forced else held.get(name)
        )


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
        text = f"The configuration before it goes on serving. {config['reload_problems'][0]}"
        yield _problem("warning", "The last reload was refused", text, None)


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
            cause = said(next(iter(outage["causes"]), ""))
            text = f"Its circuit was not closed for {_lasting(outage['until_s'] - outage['since_s'])}: {cause}."
            yield _problem("over", f"{name} answers again", text, outage["until_s"])


def _lasts_since(document: Document, what: str, name: str) -> float | None:
    """Since when something is broken: a circuit opens again after each failed trial, and that is one outage."""
    for outage in document["outages"]:
        if (outage["what"], outage["name"], outage["until_s"]) == (what, name, None):
            return float(outage["since_s"])
    return None


def _problem(severity: str, title: str, text: str, since_s: float | None, breaker: str | None = None) -> Document:
    return {"severity": severity, "title": title, "text": text.strip(), "since_s": since_s, "breaker": breaker}


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
    causes = {} if outage is None else {code: n for code, n in outage["causes"].items() if not code.startswith("iam_")}
    if causes:
        return {"state": "failing", "texts": [f"5xx: {said(max(causes, key=lambda code: causes[code]))}"]}
    return {"state": "", "texts": ["as usual"]}


def _upstream_now(upstream: Document) -> tuple[str, str]:
    bad = [origin for origin in upstream["origins"] if _is_bad(origin)]
    if not bad:
        return "well", "answers"
    if len(bad) < len(upstream["origins"]):
        return "partly", f"{len(bad)} of {len(upstream['origins'])} origins set aside"
    return "down", _why(bad[0])


def _is_bad(origin: Mapping[str, Any]) -> bool:
    return bool(origin["set_aside_s"] > 0 or origin.get("ill"))


def _why(origin: Mapping[str, Any]) -> str:
    error = origin.get("last_error") or {}
    return error.get("reason") or said(error.get("code", "")) if error else "its health check fails"


def _concerns(breaker: Document, route: Document, upstream: str) -> bool:
    return breaker["name"] == route["id"] or breaker["name"] == f"{route['id']}.{upstream}" or "," not in route["to"]


def _state(breaker: Document) -> str:
    return "held open" if breaker["forced"] == "open" else str(breaker["state"]).replace("_", "-")


def _lasting(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004 - two minutes


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
