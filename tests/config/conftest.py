"""Loading texts as configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from gateway.config import ConfigurationError, Problem, load
from gateway.model.settings import Configuration
from tests.config.texts import place

Load = Callable[..., Configuration]
Mistakes = Callable[..., tuple[Problem, ...]]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Mapping[str, str]], Path]:
    def write(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


@pytest.fixture
def load_text(folder: Callable[[Mapping[str, str]], Path]) -> Load:
    """Loads a text as routes.yaml, beside `files`, with `environ`."""

    def run(text: str, files: Mapping[str, str] | None = None, **environ: str) -> Configuration:
        return load(folder({"routes.yaml": text, **(files or {})}) / "routes.yaml", environ)

    return run


@pytest.fixture
def mistakes(load_text: Load) -> Mistakes:
    """The mistakes of a text; none if it loads."""

    def run(text: str, files: Mapping[str, str] | None = None, **environ: str) -> tuple[Problem, ...]:
        try:
            load_text(text, files, **environ)
        except ConfigurationError as error:
            return error.problems
        return ()

    return run


@pytest.fixture
def assert_mistake(mistakes: Mistakes) -> Callable[..., None]:
    """Asserts that exactly one mistake is found, at the marker of the text, with this id and these words."""

    def check(marked: str, id_: str, words: str = "", files: Mapping[str, str] | None = None, **environ: str) -> None:
        text, line, col = place(marked)
        found = mistakes(text, files, **environ)
        assert [(each.line, each.col, each.id) for each in found] == [(line, col, id_)], "\n".join(map(str, found))
        assert words in found[0].message

    return check
