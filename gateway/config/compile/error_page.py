"""`error_page` → ErrorPage: the file read and checked, its placeholders found, its styles allowed by their hash.

Rules: the page may only show what the gateway itself says. It loads nothing and runs no script: the policy sent with it
forbids both, and a page that counts on them is a mistake at load. A page without `{refresh}` gets it in its head, so
that every page reloads itself.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

from gateway.config.compile.world import World
from gateway.config.keys.routes import ErrorPageKeys, RouteKeys
from gateway.config.validate import Section
from gateway.model.error_page import ErrorPage

MAX_BYTES: Final = 256 * 1024
_BUILT_IN: Final = (Path(__file__).parents[1] / "builtin" / "error.html").read_text()
_NAMES: Final = ("status", "title", "detail", "retry_after", "request_id", "refresh")
_PLACEHOLDER: Final = re.compile(r"\{(" + "|".join(_NAMES) + r")\}")
_STYLE: Final = re.compile(r"<style[^>]*>(.*?)</style\s*>", re.IGNORECASE | re.DOTALL)
_HEAD: Final = re.compile(r"<head(?:\s[^>]*)?>|\A\s*<!doctype[^>]*>", re.IGNORECASE)
_ACTIVE: Final = re.compile(r"<(script|link|iframe|object|embed|base|form)\b", re.IGNORECASE)
_RULES: Final = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def compile_error_page(section: Section[RouteKeys], keys: ErrorPageKeys | None, world: World) -> ErrorPage | None:
    """The page; None where the route has none. What is wrong is noted."""
    if keys is None:
        return None
    if keys.html is None:
        return _page(_BUILT_IN)
    mark = section.at("error_page", "html")
    text = world.files.read_text(mark, keys.html)
    if text is None:
        return None
    message = _unfit(text)
    if message is not None:
        world.problems.error(mark, "bad-page", f"{keys.html}: {message}")
    return _page(text)


def _unfit(text: str) -> str | None:
    size = len(text.encode())
    if size > MAX_BYTES:
        return f"the page has {size} bytes; at most {MAX_BYTES} are sent with an error"
    if not text.strip():
        return "the page is empty"
    active = _ACTIVE.search(text)
    if active is not None:
        return f"<{active[1].lower()}> does not work here: the page loads nothing, runs nothing and sends nothing"
    if any(_PLACEHOLDER.search(style) for style in _STYLE.findall(text)):
        return "a placeholder can't stand inside <style>"
    return None


def _page(text: str) -> ErrorPage:
    if "{refresh}" not in text:
        head = next(reversed(list(_HEAD.finditer(text))), None)
        at = 0 if head is None else head.end()
        text = f"{text[:at]}{{refresh}}{text[at:]}"
    # A browser reads CRLF as LF before it compares the hash (HTML section 13.2.3.5).
    styles = {_hash(style.replace("\r\n", "\n").replace("\r", "\n")) for style in _STYLE.findall(text)}
    allowed = f"; style-src {' '.join(sorted(styles))}" if styles else ""
    return ErrorPage(tuple(_PLACEHOLDER.split(text)), f"{_RULES}{allowed}".encode("ascii"))


def _hash(style: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode('ascii')}'"
