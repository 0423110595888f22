"""Traefik's dynamic configuration → Draft: `http.routers` with Host, Path and PathPrefix, services, stripPrefix."""

from __future__ import annotations

import re
from typing import Final

from gateway.config.tree import Node
from gateway.starter.draft import Draft
from gateway.starter.trees import text_of

_TERM: Final = re.compile(r"(?P<name>\w+)\((?P<values>[^()]*)\)\Z")
_VALUE: Final = re.compile(r"[`\"']([^`\"']*)[`\"']")
_UNDERSTOOD: Final = frozenset({"Host", "Path", "PathPrefix", "Method"})


def read_traefik(tree: Node) -> Draft:
    """Raises NotUnderstoodError if nothing of the file was of use."""
    draft = Draft(tree.mark.file)
    routers = tree.get("http", "routers")
    if routers is None:
        draft.leave_out(
            tree.mark.line, "neither `paths` (OpenAPI) nor `http.routers` (Traefik's dynamic configuration)"
        )
    for name, router in routers.members().items() if routers else ():
        _router(draft, tree, name, router)
    return draft.ready()


def _router(draft: Draft, tree: Node, name: str, router: Node) -> None:
    line = router.mark.line
    rule = _rule(text_of(router.get("rule")))
    if rule is None:
        draft.leave_out(line, f"router {name}: only Host, Path, PathPrefix and Method, joined by &&, are understood")
        return
    service = text_of(router.get("service")).removesuffix("@file")
    servers = tree.get("http", "services", service, "loadBalancer", "servers")
    urls = [text_of(server.get("url")).rstrip("/") for server in servers.items()] if servers else []
    upstream = draft.upstream(urls, line)
    strip = _strip(draft, tree, router, rule)
    if upstream:
        path = rule.get("Path", "") or f"{rule.get('PathPrefix', '').rstrip('/')}/*"
        methods = (rule["Method"].upper(),) if "Method" in rule else ()
        draft.route(path, upstream, line, host=rule.get("Host", ""), methods=methods, strip=strip)


def _rule(text: str) -> dict[str, str] | None:
    """`Host(…) && PathPrefix(…)` as names and values; None for anything else."""
    found: dict[str, str] = {}
    for part in text.split("&&"):
        term = _TERM.match(part.strip())
        values = _VALUE.findall(term["values"]) if term else []
        if term is None or term["name"] not in _UNDERSTOOD or len(values) != 1 or term["name"] in found:
            return None
        found[term["name"]] = values[0]
    return found


def _strip(draft: Draft, tree: Node, router: Node, rule: dict[str, str]) -> str:
    middlewares = router.get("middlewares")
    strip = ""
    for each in middlewares.items() if middlewares else ():
        name = text_of(each).removesuffix("@file")
        prefixes = tree.get("http", "middlewares", name, "stripPrefix", "prefixes")
        wanted = [text_of(prefix).rstrip("/") for prefix in prefixes.items()] if prefixes else []
        if wanted == [rule.get("PathPrefix", "").rstrip("/")]:
            strip = wanted[0]
        else:
            draft.leave_out(each.mark.line, f"middleware {name}: not taken over")
    return strip
