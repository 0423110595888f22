"""The shape of the code: what scripts/measure_house.py says stays as good as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[2] / "scripts" / "measure_house.py"
_SPEC = importlib.util.spec_from_file_location("measure_house", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
measure_house = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(measure_house)


@pytest.fixture(scope="module")
def reached():
    return {measure.name: measure.reached for measure in measure_house.measures(trace=False)}


@pytest.mark.parametrize(
    "name",
    [
        "lines of a file, longest",
        "file names shared by two things",
        "lines of a function, median",
        "lines of a function, p90",
        "modules in an import circle",
    ],
)
def test_the_house_stays_as_small_as_it_is(reached, name):
    assert reached[name]


def test_modules_that_import_each_other_are_found(tmp_path, monkeypatch):
    package = tmp_path / "gateway"
    package.mkdir()
    files = [package / f"{name}.py" for name in "abc"]
    texts = ["from gateway import b", "from gateway.a import x", "from gateway import a"]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    monkeypatch.setattr(measure_house, "ROOT", tmp_path)
    assert measure_house.circles(files) == 3  # the third reaches the circle of the other two
    files[1].write_text("import json")
    assert measure_house.circles(files) == 0
