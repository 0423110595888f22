"""Reads one file of a policy folder, or says why it cannot be read.

Rules: UTF-8 without a byte order mark, at most MAX_FILE_BYTES. Every mistake is a Problem, never an exception.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gateway.pdp.problem import Problem, problem_at

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


def read_source(file: Path, problems: list[Problem]) -> str | None:
    """The file's text; None after adding a problem."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        problems.append(Problem(str(file), 1, 1, "unreadable", error.strerror or "cannot be read"))
        return None
    if len(raw) > MAX_FILE_BYTES:
        problems.append(Problem(str(file), 1, 1, "too-large", f"the file is larger than {MAX_FILE_BYTES} bytes"))
        return None
    if raw.startswith(_BOM):
        problems.append(Problem(str(file), 1, 1, "encoding", "the file begins with a byte order mark; save it without"))
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        text = raw[: error.start].decode()
        problems.append(problem_at(file, text, len(text), "encoding", "the file is not UTF-8 here"))
        return None
