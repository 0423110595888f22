"""The documents are in plain English: short sentences, and no idioms that a reader has to look up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "ARCHITECTURE.md", "helm/README.md")),
    *sorted((ROOT / "docs").glob("**/*.md")),
]
LONGEST = 45
AVERAGE = 14.0
IDIOMS = re.compile(
    r"\b(in \S+ stead|comes? about|anew|lest|thereby|hence|whence|thus|heretofore|aforementioned|under the hood|"
    r"out of the box|on the fly|rule of thumb|in a nutshell|needless to say|at the end of the day|a breeze|"
    r"silver bullet|low-hanging|kick in|boils down|by and large|so to speak)\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"^(`{3,}).*?^\1$|<!--.*?-->", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`]*`|(?<=\])\([^)]*\)")
_END = re.compile(r"(?<=[.!?:;])\s+|\n\s*\n|\n\s*(?:[-*]|\d+\.)\s+|\||\n#+ [^\n]*")


def prose(page: Path) -> str:
    return _INLINE.sub("x", _CODE.sub("\n\n", page.read_text(encoding="utf-8")))


def lengths(text: str) -> list[tuple[int, str]]:
    """Sentences with their number of words. A semicolon or colon ends one: what follows is another thought."""
    found = [(len(re.findall(r"[A-Za-z][\w'-]*", each)), " ".join(each.split())) for each in _END.split(text)]
    return [(count, each) for count, each in found if count > 2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_read_once(page: Path) -> None:
    text = prose(page)
    found = lengths(text)
    assert max(found)[0] <= LONGEST, max(found)
    assert sum(count for count, _ in found) / len(found) <= AVERAGE
    assert [match.group() for match in IDIOMS.finditer(text)] == []


def test_a_long_sentence_and_an_idiom_are_noticed() -> None:
    assert max(lengths("One. " + "word " * 50))[0] == 50
    assert IDIOMS.search("it answers in IAM's stead")
