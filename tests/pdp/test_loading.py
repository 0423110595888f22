"""Every mistake in a policy folder is found at load, all at once, at its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.pdp.point import EmbeddedDecisionPoint
from gateway.pdp.problem import PolicyError

MakeFolder = Callable[..., Path]
FINE = "permit(principal, action, resource);"
SCOPE = "(principal, action, resource)"


def problems(folder: Path) -> list[str]:
    """The problems' lines without the folder."""
    with pytest.raises(PolicyError) as caught:
        EmbeddedDecisionPoint.load(folder)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


IN_POLICIES = [
    ("permit(principal action, resource);", "1:18", "unexpected token `action`"),
    ("permit(principal, action)", "1:26", "unexpected end of input: a policy ends with ';'"),
    (f"{FINE}\n\n  permit{SCOPE} whn {{ true }};", "3:39", "condition: whn; did you mean 'when'?"),
    (f"permit{SCOPE} when {{ foo }};", "1:44", "invalid variable: foo"),
    (f"permit{SCOPE} when {{ resurce.x }};", "1:44", "did you mean 'resource'?"),
    (f"permit{SCOPE} when {{\n  context.x &  1\n}};", "2:13", "invalid token"),
    (f'permit{SCOPE} when {{ "abc }};', "1:44", "invalid token"),
    (f"alow{SCOPE};", "1:1", "invalid policy effect: alow"),
    (f"{FINE[:-1]}\n{FINE}", "2:7", "unexpected token `(`"),
    ("permit(principal, action == Action::read, resource);", "1:29", "expected an entity uid, found name"),
    (f"permit{SCOPE} when {{ resource.foo(1) }};", "1:53", "`foo` is not a valid method"),
    (f'@id("a")\n@id("b") {FINE}', "2:2", "duplicate annotation: @id"),
    (f"{FINE}\npermit{SCOPE} when {{ 'x' }};", "2:44", "invalid token"),
    (f"{FINE} /* a comment */", "1:38", "unexpected token `/`"),
]


@pytest.mark.parametrize(("text", "place", "words"), IN_POLICIES)
def test_mistakes_in_policies(folder: MakeFolder, text: str, place: str, words: str):
    (line,) = problems(folder(text))
    assert line.startswith(f"p.cedar:{place}: error[policy-syntax]: ")
    assert words in line


def test_an_id_stands_once_in_a_folder(folder: MakeFolder):
    path = folder(f'@id("a") {FINE}', b__cedar=f'\n  @id("a") {FINE}')
    assert problems(path) == [
        f'p.cedar:1:1: error[duplicate-id]: @id("a") already names the policy at {path}/b.cedar:2:3'
    ]


def test_templates_are_refused_at_their_slot(folder: MakeFolder):
    (line,) = problems(folder("permit(principal == ?principal, action, resource);"))
    assert line.startswith("p.cedar:1:21: error[policy-template]: templates (?principal, ?resource) are not supported")


def test_files_without_a_policy_are_a_mistake(folder: MakeFolder):
    (line,) = problems(folder("// nothing\n"))
    assert "error[no-policies]: there is no policy in 1 *.cedar files" in line


def test_semicolons_in_strings_and_comments_do_not_cut_a_policy(folder: MakeFolder):
    text = f'// a; b\npermit{SCOPE} when {{ "x;\\"y" == "x;\\"y" // c;\n}};'
    loaded = EmbeddedDecisionPoint.load(folder(text))
    assert loaded.policy_count == 1


def test_policies_are_named_by_their_place(folder: MakeFolder):
    files = {"a__cedar": f"// first\n{FINE}", "b__cedar": f'@id("b")\n{FINE} {FINE}'}
    verdict = EmbeddedDecisionPoint.load(folder(**files)).evaluate(
        {
            "subject": {"type": "user", "id": "x"},
            "action": {"name": "x"},
            "resource": {"type": "x", "id": "x"},
        }
    )
    assert verdict.policies == ("a.cedar:2:1", "b.cedar:1:1", "b.cedar:2:38")


UID = {"type": "User", "id": "a"}


A = '{"uid": {"type": "User", "id": "a"}'
AGAIN = f'{A}, "uid": {{"type": "User", "id": "b"}}'
CYCLE = (
    '[{"uid": {"type": "A", "id": "1"}, "parents": [{"type": "A", "id": "2"}]},\n'
    ' {"uid": {"type": "A", "id": "2"}, "parents": [{"type": "A", "id": "1"}]}]'
)
IN_ENTITIES = [
    ("{", "1:2", "json-syntax", "expecting property name"),
    ('[\n  {"uid": NaN}\n]', "2:11", "json-syntax", "NaN is not JSON"),
    ("{}", "1:1", "entity-shape", "entities.json is a list"),
    ("[5]", "1:2", "entity-shape", "an entity is an object"),
    ("[{}]", "1:2", "entity-uid", 'an entity is named {"type"'),
    ('[{"uid": "User::a"}]', "1:3", "entity-uid", "an entity is named"),
    (f'[\n {A},\n  "atrs": {{}}}}]', "3:3", "unknown-key", "unknown key 'atrs'; did you mean 'attrs'?"),
    ('[{"uid": {"type": "User", "id": "a", "x": 1}}]', "1:38", "unknown-key", "unknown key 'x'"),
    ('[{"uid": {"type": "Us er", "id": "a"}}]', "1:11", "entity-type", "'Us er' is not a Cedar type name"),
    (f"[{AGAIN}}}]", "1:39", "duplicate-key", 'duplicate key "uid"'),
    (f"[{A}}},\n {A}}}]", "2:3", "duplicate-entity", 'User::"a" stands here a second time'),
    (f'[{A}, "attrs": {{"n": null}}}}]', "1:49", "entity-value", "Cedar has no null"),
    (f'[{A}, "attrs": {{"n": [1.5]}}}}]', "1:55", "entity-value", "Cedar has no floating point"),
    (f'[{A}, "attrs": {{"n": 9223372036854775808}}}}]', "1:49", "entity-value", "the number does not fit"),
    (f'[{A}, "attrs": []}}]', "1:39", "entity-shape", "'attrs' is an object"),
    (f'[{A}, "parents": {{}}}}]', "1:39", "entity-shape", "'parents' is a list"),
    (f'[{A}, "parents": [\n"x"]}}]', "2:1", "entity-uid", "an entity is named"),
    (
        f'[{A}, "attrs": {{"i": {{"__extn": {{"fn": "ip", "arg": "x"}}}}}}}}]',
        "1:2",
        "entity-value",
        "Cedar cannot read",
    ),
    (CYCLE, "1:36", "entity-cycle", 'the parents of A::"1", A::"2" form a cycle'),
    (f'[{A}, "parents": [{{"type": "User", "id": "a"}}]}}]', "1:39", "entity-cycle", 'User::"a"'),
]


@pytest.mark.parametrize(("text", "place", "problem_id", "words"), IN_ENTITIES)
def test_mistakes_in_entities(folder: MakeFolder, text: str, place: str, problem_id: str, words: str):
    (line,) = problems(folder(FINE, text))
    assert line.startswith(f"entities.json:{place}: error[{problem_id}]: ")
    assert words in line


@pytest.mark.parametrize("depth", [150, 400, 700, 100_000])
def test_deeply_nested_entities_are_a_problem_not_a_crash(folder: MakeFolder, depth: int):
    (line, *_) = problems(folder(FINE, f'[{A}, "attrs": {{"a": {"[" * depth}1.5{"]" * depth}}}}}]'))
    assert line.startswith("entities.json:1:")


def test_strings_that_look_like_json_do_not_shift_places(folder: MakeFolder):
    text = '[{"uid": {"type": "User", "id": "\\"}], {\\u007b"}, "attrs": {"a": "[,]"}},\n {"uid": 1}]'
    assert problems(folder(FINE, text)) == [
        'entities.json:2:3: error[entity-uid]: an entity is named {"type": "…", "id": "…"}'
    ]


def test_all_mistakes_of_all_files_come_together_in_order(folder: MakeFolder):
    files = {"a__cedar": f"nope;\n{FINE}\npermit();", "b__cedar": "what"}
    lines = problems(folder(entities=[{"uid": UID, "x": 1}, {}], **files))
    assert [line.split(": ")[0] for line in lines] == [
        "a.cedar:1:5",
        "a.cedar:3:1",
        "b.cedar:1:5",
        "entities.json:1:39",
        "entities.json:1:48",
    ]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\xef\xbb\xbf" + FINE.encode(), "p.cedar:1:1: error[encoding]: the file begins with a byte order mark"),
        (b"// ok\n// \xff", "p.cedar:2:4: error[encoding]: the file is not UTF-8 here"),
        (b" " * (8 * 1024 * 1024 + 1), "p.cedar:1:1: error[too-large]"),
    ],
    ids=["bom", "latin-1", "large"],
)
def test_files_that_cannot_be_read(folder: MakeFolder, raw: bytes, expected: str):
    path = folder()
    (path / "p.cedar").write_bytes(raw)
    (line,) = problems(path)
    assert line.startswith(expected)


def test_a_missing_folder_and_an_empty_one(tmp_path: Path):
    assert problems(tmp_path / "no")[0].endswith("no:1:1: error[no-folder]: there is no such folder")
    assert "error[no-policies]" in problems(tmp_path)[0]


def test_a_folder_without_entities_is_fine(folder: MakeFolder):
    assert EmbeddedDecisionPoint.load(folder(FINE)).entity_count == 0


def test_a_cedar_folder_instead_of_a_file_is_a_problem(folder: MakeFolder):
    path = folder(FINE)
    (path / "x.cedar").mkdir()
    (line,) = problems(path)
    assert line.startswith("x.cedar:1:1: error[unreadable]")


def test_cedar_json_with_explicit_entity_escapes_and_tags_is_read(folder: MakeFolder):
    entities: list[Any] = [
        {"uid": {"__entity": UID}, "attrs": {"ip": {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}}, "tags": {"a": "b"}}
    ]
    text = f'permit{SCOPE} when {{ principal.ip.isInRange(ip("10.0.0.0/8")) && principal.getTag("a") == "b" }};'
    loaded = EmbeddedDecisionPoint.load(folder(text, entities))
    question = {"subject": {"type": "user", "id": "a"}, "action": {"name": "x"}, "resource": {"type": "x", "id": "x"}}
    assert loaded.evaluate(question).allowed
    question["resource"]["properties"] = {"n": 1}
    assert loaded.evaluate(question).allowed
