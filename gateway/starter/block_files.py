"""nginx.conf and Caddyfile → Draft: words, quoted texts, comments and blocks in braces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.starter.draft import Draft, NotUnderstoodError

# The syntax that nginx.conf and a Caddyfile share: words, quoted texts, comments, and blocks in braces.

_SPACE: Final = re.compile(r"[ \t\r]+|#[^\n]*")
_QUOTED: Final = re.compile(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`""", re.DOTALL)
# nginx: a brace or semicolon ends a word, but for the braces of ${name}. Caddy: only white space does. A brace alone is
# a block, so that {placeholders} are words.
_NGINX_WORD: Final = re.compile(r"(?:\$\{[^}\s]*\}|[^\s;{}])+")
_CADDY_WORD: Final = re.compile(r"\S+")
_CADDY_BRACE: Final = re.compile(r"[{}](?=\s|$)")
_DEEPEST: Final = 50


@dataclass(slots=True)
class Directive:
    """One directive: its words, and what stands in its block."""

    line: int
    words: list[str]
    block: list[Directive] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0] if self.words else ""


def read_blocks(file: str, text: str, *, by_line: bool) -> list[Directive]:
    """The directives of a file. `by_line`: a directive ends with its line (Caddy), else with `;` (nginx).

    Raises NotUnderstoodError for unbalanced braces or quotes.
    """
    reader = _Reader(file)
    for piece in _pieces(file, text, by_line=by_line):
        if piece == "{":
            reader.open()
        elif piece == "}":
            reader.close()
        elif piece == ("\n" if by_line else ";"):
            reader.end()
        elif piece != "\n":
            reader.add(piece)
        reader.line += piece.count("\n")
    return reader.whole()


class _Reader:
    """Builds the tree of directives, piece by piece."""

    def __init__(self, file: str) -> None:
        self.line = 1
        self._file = file
        self._words: list[str] = []
        self._started = 1
        self._open = [Directive(1, [])]

    def add(self, piece: str) -> None:
        """A word of the directive that is being read."""
        if not self._words:
            self._started = self.line
        self._words.append(piece[1:-1] if piece[0] in "\"'`" else piece)

    def end(self) -> None:
        """The directive is complete."""
        if self._words:
            self._open[-1].block.append(Directive(self._started, self._words))
            self._words = []

    def open(self) -> None:
        """The directive has a block."""
        directive = Directive(self._started if self._words else self.line, self._words)
        self._words = []
        self._open[-1].block.append(directive)
        self._open.append(directive)
        if len(self._open) > _DEEPEST:
            raise NotUnderstoodError(f"{self._file}:{self.line}: blocks are nested too deeply")

    def close(self) -> None:
        """The block is complete."""
        self.end()
        if len(self._open) == 1:
            raise NotUnderstoodError(f"{self._file}:{self.line}: there is no block to close here")
        self._open.pop()

    def whole(self) -> list[Directive]:
        """The top of the file."""
        self.end()
        if len(self._open) > 1:
            raise NotUnderstoodError(f"{self._file}:{self._open[-1].line}: this block is not closed")
        return self._open[0].block


def _pieces(file: str, text: str, *, by_line: bool) -> Iterator[str]:
    word = _CADDY_WORD if by_line else _NGINX_WORD
    at = 0
    while at < len(text):
        if space := _SPACE.match(text, at):
            at = space.end()
            continue
        alone = text[at] == "\n" or (bool(_CADDY_BRACE.match(text, at)) if by_line else text[at] in ";{}")
        found = None if alone else _QUOTED.match(text, at) or word.match(text, at)
        piece = found.group() if found else text[at]
        if not alone and found is None:
            line = text.count("\n", 0, at) + 1
            raise NotUnderstoodError(f"{file}:{line}: this is neither a word nor a block")
        yield piece
        at += len(piece)


# nginx.conf → Draft: `server`, `server_name`, `location` by prefix or `=`, `proxy_pass`, `upstream`.

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


# Caddyfile → Draft: site blocks, `reverse_proxy` with an inline path, `handle`, `handle_path`, `route`.

_HANDLERS: Final = frozenset({"handle", "handle_path", "route"})


def read_caddyfile(file: str, text: str) -> Draft:
    """Raises NotUnderstoodError if nothing of the file was of use."""
    draft = Draft(file)
    for site in read_blocks(file, text, by_line=True):
        if not site.words:
            draft.leave_out(site.line, "global options: not taken over")
        elif site.name.startswith("("):
            draft.leave_out(site.line, f"{site.name}: snippets are not taken over")
        elif site.block:
            for address in site.words:
                _site(draft, site, _host(address.rstrip(",")))
        else:
            draft.leave_out(site.line, f"{' '.join(site.words)}: a site block is expected")
    return draft.ready()


def _host(address: str) -> str:
    """`https://shop.example:443`, `:8080`, `shop.example` → the host, "" for any."""
    host = address.partition("://")[2] or address
    host = host.partition("/")[0]
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    return "" if name in {"*", "localhost"} else name


def _site(draft: Draft, site: Directive, host: str) -> None:
    for each in site.block:
        if each.name == "reverse_proxy":
            _proxy(draft, each, host, "", "")
        elif each.name in _HANDLERS:
            _handler(draft, each, host)
        else:
            draft.leave_out(each.line, f"{' '.join(each.words)}: not taken over")


def _handler(draft: Draft, handler: Directive, host: str) -> None:
    matcher = handler.words[1] if len(handler.words) > 1 else ""
    if matcher and not matcher.startswith("/"):
        draft.leave_out(handler.line, f"{' '.join(handler.words)}: only paths are understood as matchers")
        return
    for each in handler.block:
        if each.name == "reverse_proxy":
            strip = matcher.removesuffix("*").rstrip("/") if handler.name == "handle_path" else ""
            _proxy(draft, each, host, matcher, strip)
        else:
            draft.leave_out(each.line, f"{' '.join(each.words)}: not taken over")


def _proxy(draft: Draft, proxy: Directive, host: str, within: str, strip: str) -> None:
    words = proxy.words[1:]
    path = within
    if words and words[0].startswith(("/", "@", "*")):
        path, words = words[0], words[1:]
    for each in proxy.block:
        if each.name == "to":
            words = words + each.words[1:]
        else:
            draft.leave_out(each.line, f"{' '.join(each.words)}: not taken over")
    if path.startswith("@"):
        draft.leave_out(proxy.line, f"reverse_proxy {path}: only paths are understood as matchers")
        return
    path = "/*" if path in {"", "*"} else path
    if path.endswith("*") and not path.endswith("/*"):
        draft.leave_out(proxy.line, f"{path}: routes match whole segments")
        return
    upstream = draft.upstream([word if "://" in word else f"http://{_with_host(word)}" for word in words], proxy.line)
    if upstream:
        draft.route(path, upstream, proxy.line, host=host, strip=strip)


def _with_host(address: str) -> str:
    return f"127.0.0.1{address}" if address.startswith(":") else address
