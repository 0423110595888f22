"""What is generated is current; what is pending is refused; problems can be shown with their lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.config.problems import Mark, Problem, Problems, render
from gateway.config.reference import json_schema, main, reference
from gateway.config.route_keys import RoutesFile
from gateway.config.tree import Node
from gateway.config.validate import PENDING, refuse_pending
from gateway.config.yaml_reader import read_yaml

ROOT = Path(__file__).parents[2]


def test_the_schema_file_is_current() -> None:
    """Mend with: gateway schema > routes.schema.json."""
    assert json.loads((ROOT / "routes.schema.json").read_text()) == json_schema()


def test_the_reference_is_current() -> None:
    """Mend with: python -m gateway.config.reference docs/configuration.md."""
    assert (ROOT / "docs" / "configuration.md").read_text() == reference()


def test_the_reference_is_written_where_it_is_told(tmp_path) -> None:
    main([str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == reference()


def test_every_key_is_described() -> None:
    """By itself or, where that would say the same, by the mapping that it is."""
    schema = json_schema()
    models = [schema, *(model for model in schema["$defs"].values() if "properties" in model)]
    members = [(key, member) for model in models for key, member in model["properties"].items()]
    named = [
        (key, schema["$defs"].get(member.get("$ref", "").rpartition("/")[2], {}) | member) for key, member in members
    ]
    assert [key for key, member in named if not member.get("description")] == []


def test_the_schema_closes_every_mapping_of_known_keys() -> None:
    schema = json_schema()
    models = [schema, *(model for model in schema["$defs"].values() if "properties" in model)]
    assert all(model["additionalProperties"] is False for model in models)


def test_the_schema_says_nothing_of_null_but_where_it_means_something() -> None:
    text = json.dumps(dict(json_schema().items()))
    assert text.count('"type": "null"') == 2, "batch_path of iam, and of iam_shadow"


def test_every_key_of_the_schema_is_in_the_reference() -> None:
    page = reference()
    for model in json_schema()["$defs"].values():
        for key in model.get("properties", ()):
            assert f"| `{key}` |" in page, key


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("Duration", ["250ms", "2s", "1m30s", "1h", "${X:-2s}"], ["5", "1d", "1s1m", ""]),
        ("Size", ["512B", "64KiB", "${X}"], ["64KB", "-1B", "1.5MiB"]),
        ("Share", ["50%", "100%", "0.5%", "${X}"], ["50", "101%"]),
        ("Name", ["a", "user-audit.x_1"], ["", "-a", "a b"]),
    ],
)
def test_the_patterns_of_the_schema_admit_what_loads(name, good, bad) -> None:
    model = json_schema()["$defs"][name]
    patterns = [each["pattern"] for each in model.get("anyOf", [model]) if "pattern" in each]
    assert all(any(re.search(pattern, text) for pattern in patterns) for text in good)
    assert not any(any(re.search(pattern, text) for pattern in patterns) for text in bad)


def test_the_models_and_the_schema_have_the_same_sections() -> None:
    assert set(RoutesFile.model_fields) == set(json_schema()["properties"])


def _tree(text: str) -> Node:
    node = read_yaml("f.yaml", text.encode(), Problems())
    assert node is not None
    return node


def test_a_pending_key_is_refused_where_it_stands() -> None:
    problems = Problems()
    tree = _tree("server:\n  tls: {}\nroutes:\n  - id: a\n  - {id: b, cors: {}}\n")
    refuse_pending(
        tree, problems, {"server.tls": "no listener takes it", "routes.*.cors": "nobody answers", "iam.x": "-"}
    )
    assert [str(problem) for problem in problems.errors] == [
        "f.yaml:2:3: error[not-supported]: server.tls is not supported yet: no listener takes it",
        "f.yaml:5:13: error[not-supported]: routes.*.cors is not supported yet: nobody answers",
    ]


def test_a_pending_key_of_a_policy_is_refused_in_its_file() -> None:
    problems = Problems()
    refuse_pending(_tree("max_body: 1B\n"), problems, {"policies.*.max_body": "why"}, ("policies", "p"))
    assert len(problems.errors) == 1


def test_nothing_is_pending_that_the_reference_does_not_know() -> None:
    known = set(re.findall(r"^\| `([a-z_0-9]+)` \|", reference(), re.MULTILINE))
    assert all(path.rpartition(".")[2] in known for path in PENDING)


def test_a_problem_is_shown_with_its_lines_and_a_caret(tmp_path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text("version: 1\nserver: {deadline: 5}\niam: {}\n")
    problem = Problem(str(file), 2, 20, "error", "bad-duration", "a duration needs its unit")
    assert render([problem]) == "\n".join(
        [
            str(problem),
            "  1 | version: 1",
            "  2 | server: {deadline: 5}",
            "    | " + " " * 19 + "^",
            "  3 | iam: {}",
        ]
    )


def test_a_problem_without_a_readable_file_is_its_line_alone(tmp_path) -> None:
    problem = Problem(str(tmp_path / "gone.yaml"), 1, 1, "error", "unreadable-file", "there is no such file")
    assert render([problem]) == str(problem)


def test_a_problem_beyond_the_end_of_its_file_is_its_line_alone(tmp_path) -> None:
    (tmp_path / "f.yaml").write_text("")
    assert "\n" not in render([Problem(str(tmp_path / "f.yaml"), 9, 1, "error", "x", "y")])


def test_the_same_mistake_at_the_same_place_is_kept_once() -> None:
    problems = Problems()
    for _ in range(2):
        problems.error(Mark("f", 1, 1), "x", "y\nz")
    assert [str(problem) for problem in problems.errors] == ["f:1:1: error[x]: y z"]
