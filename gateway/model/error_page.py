"""A route's page for people in browsers, taken apart at load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """`parts` are text and the name of a placeholder by turns, beginning and ending with text.

    `policy`: the value of Content-Security-Policy that fits this page.
    """

    parts: tuple[str, ...]
    policy: bytes
