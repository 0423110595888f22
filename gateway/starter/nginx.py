"""nginx.conf → Draft: `server`, `server_name`, `location` by prefix or `=`, `proxy_pass`, `upstream`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from gateway.starter.blocks import Directive, read_blocks
from gateway.starter.draft import Draft

_URL: Final = re.compile(r"(?P<scheme>https?)://(?P<host>[^/$\s]+)(?P<path>/[^$\s]*)?\Z")
_HOLDERS: Final = frozenset({"http", "server", "events", "stream", "location", "upstream"})
_SILENT: Final = frozenset({"listen", "server_name", "proxy_pass", "server"})
_PREFIX_WORDS: Final = 2


def read_nginx(file: str, text: str) -> Draft:
    """Raises NotUnderstoodError if nothing of the file was of use."""
    draft = Draft(file)
    top = read_blocks(file, text, by_line=False)
    within_http = [inner for each in top if each.name == "http" for inner in each.block]
    directives = within_http or top
    pools = {each.words[1]: _servers(each) for each in directives if each.name == "upstream" and len(each.words) > 1}
    for server in directives:
        if server.name == "server":
            _server(draft, server, pools)
        elif server.name == "include":
            draft.leave_out(server.line, f"include {' '.join(server.words[1:])}: name that file with --from instead")
    return draft.ready()


def _servers(upstream: Directive) -> list[str]:
    return [each.words[1] for each in upstream.block if each.name == "server" and len(each.words) > 1]


def _server(draft: Draft, server: Directive, pools: dict[str, list[str]]) -> None:
    for host in _hosts(draft, server):
        for location in server.block:
            if location.name == "location":
                _location(draft, location, host, pools)
    for each in server.block:
        if each.name not in _HOLDERS | _SILENT:
            draft.leave_out(each.line, f"{' '.join(each.words)}: set it in routes.yaml, if it has a like there")


def _hosts(draft: Draft, server: Directive) -> Iterator[str]:
    names = [name for each in server.block if each.name == "server_name" for name in each.words[1:]]
    plain = [name for name in names if name not in {"_", ""} and not name.startswith(("~", "*", "."))]
    for name in set(names) - set(plain) - {"_", ""}:
        draft.leave_out(server.line, f"server_name {name}: a route has one exact host, or none")
    yield from plain or [""]


def _location(draft: Draft, location: Directive, host: str, pools: dict[str, list[str]]) -> None:
    words = location.words[1:]
    kind, path = (words[0], words[1]) if len(words) == _PREFIX_WORDS else ("", words[0] if words else "")
    if kind in {"~", "~*"} or path.startswith("@") or not path:
        draft.leave_out(location.line, f"location {' '.join(words)}: routes match whole segments, not patterns")
        return
    passed = next((each for each in location.block if each.name == "proxy_pass"), None)
    for each in location.block:
        if each.name != "proxy_pass":
            draft.leave_out(each.line, f"{' '.join(each.words)}: not taken over")
    if passed is None:
        draft.leave_out(location.line, f"location {path}: there is no proxy_pass")
        return
    _forward(draft, passed, kind, path, host, pools)


def _forward(draft: Draft, passed: Directive, kind: str, path: str, host: str, pools: dict[str, list[str]]) -> None:
    url = _URL.match(passed.words[1]) if len(passed.words) > 1 else None
    if url is None:
        draft.leave_out(passed.line, f"{' '.join(passed.words)}: not a plain http:// or https:// URL")
        return
    rest = url["path"] or ""
    strip = path.rstrip("/") if rest == "/" and path != "/" else ""
    if rest and not strip and rest.rstrip("/") != path.rstrip("/"):
        draft.leave_out(
            passed.line, f"{' '.join(passed.words)}: the gateway removes a prefix, but does not put another"
        )
        return
    servers = pools.get(url["host"], [url["host"]])
    upstream = draft.upstream([f"{url['scheme']}://{server}" for server in servers], passed.line)
    if upstream:
        below = path if kind == "=" else f"{path.rstrip('/')}/*"
        draft.route(below, upstream, passed.line, host=host, strip=strip)
