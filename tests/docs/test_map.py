"""ARCHITECTURE.md names files, functions and packages. Each of them is there."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
MAP = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
ROOMS = ("server", "identity", "authorize", "iam", "resilience", "upstream", "forward")
FILE = re.compile(r"`((?:[\w-]+/)*\w+\.py)`")
NAMED = re.compile(r"`((?:[\w-]+/)*\w+\.py)`: ((?:`(?!\w+\.py`)[\w.]+`(?:, )?)+)")


def place_of(path: str) -> Path:
    """A file as the map names it: below `gateway`, or from the root."""
    return next((each for each in (ROOT / "gateway" / path, ROOT / path) if each.is_file()), ROOT / path)


@lru_cache(maxsize=64)
def names_in(file: Path) -> frozenset[str]:
    """Classes, functions and values of a file, methods as `Class.method`."""
    return frozenset(_names(ast.parse(file.read_text(encoding="utf-8")).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(prefix + node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {prefix + node.name, *_names(node.body, f"{prefix}{node.name}.")}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
    return found


def named(text: str) -> list[tuple[str, str]]:
    """Every file with a name in it: `file.py`: `name`, `other`."""
    return [(match[1], name) for match in NAMED.finditer(text) for name in re.findall(r"`([\w.]+)`", match[2])]


def unknown(text: str) -> list[str]:
    """What is named and is not there."""
    files = sorted({path for path in FILE.findall(text) if not place_of(path).is_file()})
    pairs = [(path, name) for path, name in named(text) if place_of(path).is_file()]
    return files + [f"{path}: {name}" for path, name in pairs if name not in names_in(place_of(path))]


def section(title: str) -> str:
    return re.split(r"^#+ ", MAP.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_what_the_map_names_is_there() -> None:
    assert len(named(MAP)) >= 20
    assert unknown(MAP) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_that_a_page_names_with_its_folder_is_there(page: Path) -> None:
    paths = {path for path in FILE.findall(page.read_text(encoding="utf-8")) if "/" in path}
    assert {path for path in paths if not place_of(path).is_file()} == set()


def test_what_is_not_there_is_noticed() -> None:
    text = "`pipeline.py`: `Pipeline._handle`, `Pipeline.gone` and `gone/nothing.py`: `x`"
    assert unknown(text) == ["gone/nothing.py", "pipeline.py: Pipeline.gone"]


@pytest.mark.parametrize("room", ROOMS)
def test_the_map_lists_every_file_of_a_room_and_no_other(room: str) -> None:
    row = re.search(rf"^\| `{room}` \| (.*) \|$", section("Files of the request path"), re.MULTILINE)
    assert row is not None
    listed = set(re.findall(r"`([a-z_0-9]+)`", row[1]))
    assert listed == {file.stem for file in (ROOT / "gateway" / room).glob("*.py")} - {"__init__"}


def test_the_code_map_has_every_package_and_module() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`.*?) \|", section("Code map"), re.MULTILINE))))
    there = {each.stem for each in (ROOT / "gateway").iterdir() if each.suffix in {"", ".py"}}
    assert listed == {name for name in there if not name.startswith("__")}


def test_every_package_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    meta, tool = project["project"], project["tool"]
    required = [*meta["dependencies"], *project["build-system"]["requires"]]
    for group in (*meta["optional-dependencies"].values(), *project["dependency-groups"].values()):
        required += group
    required += tool["hatch"]["build"]["hooks"]["custom"]["requires"]
    names = {re.split(r"[\[=<>~ ]", each)[0] for each in required} - {meta["name"]}
    text = section("Dependencies").lower()
    assert {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name.lower())}(?![\w-])", text)} == set()
