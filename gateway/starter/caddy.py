"""Caddyfile → Draft: site blocks, `reverse_proxy` with an inline path, `handle`, `handle_path`, `route`."""

from __future__ import annotations

from typing import Final

from gateway.starter.blocks import Directive, read_blocks
from gateway.starter.draft import Draft

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
