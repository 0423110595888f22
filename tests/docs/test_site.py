"""What the site makes of the documents: blocks that can be copied, links that lead somewhere, references up to date.

`scripts/test` builds the site itself, strictly.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from gateway.cli.reference import reference

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed")
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "scripts" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["site_pages"] = module
    spec.loader.exec_module(module)
    return module


def shown(pages: ModuleType, text: str, home: str = "five-minutes.md") -> str:
    return pages.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=home)))  # type: ignore[no-any-return]


def test_a_session_is_commands_without_prompts_and_what_they_print_apart(pages):
    session = "```console tested\n$ one \\\n  more\n$ two\nprinted\n$ three\n…\n```"
    assert shown(pages, session) == (
        "```sh\none \\\n  more\ntwo\n```\n\n```{.text .no-copy}\nprinted\n```\n\n```sh\nthree\n```"
    )


def test_no_prompt_is_left_in_a_block_that_can_be_copied(pages):
    for file in (ROOT / "docs").glob("*.md"):
        blocks = shown(pages, file.read_text(), file.name).split("\n```sh\n")[1:]
        assert not [block for block in blocks if block.startswith("$ ")], file.name


def test_a_file_is_named_and_what_only_tests_need_is_not_shown(pages):
    assert shown(pages, "```yaml routes.yaml\na: 1\n```") == '```yaml title="routes.yaml"\na: 1\n```'
    assert shown(pages, "x\n<!-- tested\n$ secret step\n-->\ny") == "x\ny"


@pytest.mark.parametrize(
    ("home", "link", "turned"),
    [
        ("migrate.md", "../routes.yaml", "routes.yaml"),
        ("adr/README.md", "../metrics.md#a", "../metrics.md#a"),
        ("ARCHITECTURE.md", "docs/errors.md", "errors.md"),
        ("ARCHITECTURE.md", "README.md", "index.md"),
        ("helm/README.md", "../docs/kubernetes.md", "../kubernetes.md"),
        ("faq.md", "https://example.com/../x", "https://example.com/../x"),
        ("faq.md", "#above", "#above"),
    ],
)
def test_a_link_leads_to_its_place_on_the_site(pages, home, link, turned):
    assert shown(pages, f"[x]({link})", home) == f"[x]({turned})"


def test_the_commands_are_documented_as_they_are():
    assert (ROOT / "docs" / "commands.md").read_text() == reference()
