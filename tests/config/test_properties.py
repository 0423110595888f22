"""Whatever the file says, it loads or is refused as a configuration: never a bug's exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import ConfigurationError, load, masked, weakened
from gateway.config.matrix import failure_matrix
from gateway.config.reference import json_schema
from tests.config.test_examples import EXAMPLE, MORE_ROUTES, MORE_UPSTREAMS
from tests.config.texts import JWT, whole
from tests.support.properties import examples

SCHEMA = json_schema()
WORDS = [
    "public", "authenticated", "GET", "*", "stale", "allow", "fail_closed", "a", "5s", "0s", "1KiB", "0", "5xx", "50%",
    "read a:b", "{path.x}", "/a/{x}/*", "http://127.0.0.1:1", "${X}", "$", "audit", "/", "127.0.0.1:0", "iam", "",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 600),
    st.floats(allow_nan=False),
    st.sampled_from(WORDS),
    st.text(max_size=12),
)
NAMES = sorted({key for model in SCHEMA["$defs"].values() for key in model.get("properties", ())} | {"a", "GET", "*"})
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


def _try(folder: Path, content: bytes) -> None:
    (folder / "routes.yaml").write_bytes(content)
    refused: ConfigurationError | None = None
    try:
        configuration = load(folder / "routes.yaml", {"X": "1"})
    except ConfigurationError as error:
        refused = error
    if refused is not None:
        assert refused.problems
        assert all("\n" not in str(problem) for problem in refused.problems)
        return
    json.dumps(masked(configuration))
    failure_matrix(configuration).as_text()
    assert weakened(configuration, configuration) == []


RELAXED = examples(150)


@RELAXED
@given(st.binary(max_size=200))
@example(b"\x00")
@example(b"a: &a [*a]")
@example(b"? ? ? a")
def test_any_bytes(tmp_path, content) -> None:
    _try(tmp_path, content)


@RELAXED
@given(st.fixed_dictionaries(dict.fromkeys(SCHEMA["properties"], TREES)))
def test_any_tree_of_known_keys(tmp_path, tree) -> None:
    _try(tmp_path, json.dumps(tree).encode())


def _sound() -> dict[str, Any]:
    return {
        "version": 1,
        "iam": {"url": "http://127.0.0.1:8181"},
        "identity": {"jwt": {"issuer": "i", "audience": "a", "jwks_url": "https://i"}},
        "upstreams": {"a": {"url": "http://127.0.0.1:1"}},
        "routes": [{"id": "r", "path": "/r/{x}", "upstream": "a", "authorize": ["read a:{path.x}"]}],
    }


@RELAXED
@given(st.data())
def test_a_sound_file_with_one_thing_wrong(tmp_path, data) -> None:
    tree = _sound()
    holder: Any = data.draw(
        st.sampled_from([tree, tree["iam"], tree["identity"]["jwt"], tree["upstreams"]["a"], tree["routes"][0]])
    )
    name = data.draw(st.sampled_from([*holder, *NAMES]))
    holder[name] = data.draw(TREES)
    _try(tmp_path, json.dumps(tree).encode())


LINES = (EXAMPLE % MORE_UPSTREAMS + MORE_ROUTES).splitlines(keepends=True)


@RELAXED
@given(st.data())
def test_the_example_with_lines_taken_out_or_cut(tmp_path, data) -> None:
    """What a half-written file or a slip of the hand looks like."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        keep = data.draw(st.integers(0, len(lines[index])))
        lines[index] = lines[index][:keep]
    _try(tmp_path, "".join(lines).encode())


@RELAXED
@given(st.text(max_size=40))
def test_any_check(tmp_path, text) -> None:
    routes = f"routes: [{{id: r, path: /r, upstream: a, authorize: [{json.dumps(text)}]}}]"
    _try(tmp_path, whole(identity=JWT, routes=routes).encode())


@RELAXED
@given(st.text(alphabet="/{}*abä.%~ ;", max_size=20))
def test_any_path(tmp_path, text) -> None:
    routes = f"routes: [{{id: r, path: {json.dumps(text)}, upstream: a, authorize: public}}]"
    _try(tmp_path, whole(routes=routes).encode())


@RELAXED
@given(st.text(alphabet="htps:/@[]0123456789abxé.?#% ", max_size=30))
def test_any_url(tmp_path, text) -> None:
    _try(tmp_path, whole(upstreams=f"upstreams: {{a: {{url: {json.dumps('http://' + text)}}}}}").encode())


def test_a_thousand_routes_load(tmp_path) -> None:
    rest = 'upstream: a, authorize: ["read a:b"], timeout: {connect: 500ms}, retry: {attempts: 2}, deadline: 3s'
    routes = "routes:\n" + "\n".join(f"  - {{id: r{i}, path: /r{i}/*, {rest}}}" for i in range(1000))
    (tmp_path / "routes.yaml").write_text(whole(routes=routes))
    assert len(load(tmp_path / "routes.yaml", {}).routes) == 1000


@pytest.mark.parametrize("count", [400])
def test_many_mistakes_are_told_without_delay(tmp_path, count) -> None:
    routes = "routes:\n" + "\n".join(f"  - {{id: r{i}, path: r{i}, upstream: b, deadline: {i}}}" for i in range(count))
    (tmp_path / "routes.yaml").write_text(whole(routes=routes))
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path / "routes.yaml", {})
    assert len(refused.value.problems) == 4 * count
