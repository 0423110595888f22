"""How each route and each upstream is now, in words.

Rules: made of the merged document alone, as the problems are. What IAM causes is told as what the route does about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.admin.effect import OWN, said

Document = dict[str, Any]


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
                    document["upstreams"][name].update(state="down", text=f"circuit {state_of(breaker)}")


def _route_now(route: Document, iam: Document | None, own: list[Document], outage: Document | None) -> Document:
    if iam is not None and route["access"] == "checks":
        several = len(route["if_iam_fails"]) > 1
        texts = [
            f"{', '.join(rule['methods'])}: {rule['text']}" if several else rule["text"]
            for rule in route["if_iam_fails"]
        ]
        return {"state": "iam", "texts": texts}
    if own and any(rule["mode"] == "stale" for rule in route["if_upstream_fails"]):
        return {"state": "upstream", "texts": ["old answers, else 503: the circuit is open"]}
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
    return f"{'old answers, else ' if stale else ''}5xx: {said(cause)}"


def _upstream_now(upstream: Document) -> tuple[str, str]:
    bad = [origin for origin in upstream["origins"] if is_bad(origin)]
    if not bad:
        return "well", "answers"
    if len(upstream["origins"]) == 1 and not bad[0]["ill"] and not bad[0].get("last_error"):
        return "partly", "answers with errors"
    if len(bad) < len(upstream["origins"]):
        return "partly", f"{len(bad)} of {len(upstream['origins'])} origins set aside"
    return "down", why(bad[0])


def is_bad(origin: Mapping[str, Any]) -> bool:
    """Whether nothing is sent to it, or its health check fails."""
    return bool(origin["set_aside_s"] > 0 or origin.get("ill"))


def why(origin: Mapping[str, Any]) -> str:
    """What is wrong with an origin."""
    error = origin.get("last_error") or {}
    if error:
        return error.get("reason") or said(error.get("code", ""))
    return "its health check fails" if origin.get("ill") else "answers with errors"


def _concerns(breaker: Document, route: Document, upstream: str) -> bool:
    return breaker["name"] == route["id"] or breaker["name"] == f"{route['id']}.{upstream}" or "," not in route["to"]


def state_of(breaker: Document) -> str:
    """The state of a circuit, as the page writes it."""
    return "held open" if breaker["forced"] == "open" else str(breaker["state"]).replace("_", "-")
