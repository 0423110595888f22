"""Variables fill in values after parsing, and can change nothing else."""

from __future__ import annotations

import os

import pytest

from tests.config.texts import MARK, route, whole


def _token(load_text, text: str, **environ: str) -> str | None:
    auth = load_text(whole(iam=f"iam:\n  url: http://127.0.0.1\n  token: {text}"), **environ).iam.auth
    return auth and auth.token


@pytest.mark.parametrize(
    ("text", "environ", "value"),
    [
        ("${T}", {"T": "x"}, "x"),
        ("${T:-y}", {"T": "x"}, "x"),
        ("${T:-y}", {}, "y"),
        ("${T:-y}", {"T": ""}, "y"),
        ("${T:-}", {}, None),
        ("${T}", {"T": ""}, None),
        ("a${T}b${U:-u}c", {"T": "x"}, "axbuc"),
        ('"${T}"', {"T": "x"}, "x"),
        ("$${T}", {}, "${T}"),
        ("$$$${T}", {}, "$${T}"),
        ("a$$b", {}, "a$b"),
        ("${T}", {"T": "${U}"}, "${U}"),
        ("${T:-a:-b}", {}, "a:-b"),
        ("a$", {}, "a$"),
        ("$T/$1", {}, "$T/$1"),
    ],
)
def test_values(load_text, text, environ, value) -> None:
    assert _token(load_text, text, **environ) == value


def test_a_file_s_text_without_its_line_break(load_text, tmp_path) -> None:
    (tmp_path / "secret").write_text("x$y\r\n")
    assert _token(load_text, "${file:secret}") == "x$y"
    assert _token(load_text, f"${{file:{tmp_path}/secret}}") == "x$y"


def test_files_read_for_values_are_watched(load_text, tmp_path) -> None:
    (tmp_path / "secret").write_text("x")
    configuration = load_text(whole(iam="iam: {url: http://127.0.0.1, token: '${file:secret}'}"))
    assert tmp_path / "secret" in configuration.files


MISTAKES = [
    ("‸${T}", "unset-variable", "${T} is not set and has no default"),
    ("‸${T", "bad-variable", "${ without its }"),
    ("‸${A:-${B}}", "bad-variable", "${ without its }"),
    ("‸${}", "bad-variable", "none of ${NAME}"),
    ("‸${1A}", "bad-variable", "none of ${NAME}"),
    ("‸${A-b}", "bad-variable", "none of ${NAME}"),
    ("‸${A:-$}", "bad-variable", "none of ${NAME}"),
    ("‸${file:missing}", "unreadable-file", "missing: there is no such file"),
    ("‸${file:empty}", "empty-file", "empty: the file is empty"),
    ("‸x${file:blank}", "empty-file", "blank: the file is empty"),
    ("‸${file:.}", "unreadable-file", "this is a directory"),
    ("‸${file:}", "unreadable-file", "this is a directory"),
]


@pytest.mark.parametrize(("marked", "id_", "words"), MISTAKES)
def test_a_mistake_stands_at_the_value(assert_mistake, tmp_path, marked, id_, words) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "blank").write_text(" \n\n")
    assert_mistake(whole(iam=f"iam:\n  url: http://127.0.0.1\n  token: {marked}"), id_, words)


def test_a_variable_without_braces_is_text_and_warned_about_where_there_is_one(load_text) -> None:
    configuration = load_text(whole(iam="iam: {url: http://127.0.0.1, token: $T}"), T="x")
    assert configuration.iam.auth.token == "$T"
    assert "3:37: warning[literal-dollar]: $T is plain text; ${T} would be the variable" in configuration.warnings[0]


def test_a_name_near_a_variable_is_suggested(assert_mistake) -> None:
    text = whole(iam="iam:\n  url: http://127.0.0.1\n  token: ‸${IAM_TOKN}")
    assert_mistake(text, "unset-variable", 'did you mean "IAM_TOKEN"?', IAM_TOKEN="x")


def test_an_unset_variable_is_one_mistake_even_where_nothing_is_no_value(assert_mistake) -> None:
    assert_mistake(whole(iam="iam:\n  url: ‸${IAM_URL}"), "unset-variable")


def test_a_file_that_is_not_text_is_a_mistake(assert_mistake, tmp_path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff")
    assert_mistake(whole(iam="iam:\n  url: http://127.0.0.1\n  token: ‸${file:secret}"), "not-utf-8")


def test_a_variable_that_is_not_text_is_a_mistake(assert_mistake) -> None:
    assert_mistake(whole(iam="iam:\n  url: ‸${IAM_URL}"), "not-utf-8", "the value of ${IAM_URL}", IAM_URL="\udcff")


def test_numbers_truth_and_durations_come_from_variables_too(load_text) -> None:
    server = 'server: {max_headers: "${N}", deadline: "${D}", max_body: "${S}", name: "${NAME}", access_log: "${L}"}'
    text = route("server_timing: ${F}\nmethods: ['${M}']", server=server)
    configuration = load_text(text, N="7", D="2s", S="1KiB", NAME="e", L="off", F="true", M="GET")
    assert configuration.server.max_headers == 7
    assert (configuration.server.deadline_s, configuration.server.max_body) == (2, 1024)
    assert (configuration.server.name, configuration.server.access_log) == ("e", "off")
    assert configuration.routes[0].server_timing is True
    assert configuration.routes[0].methods == {"GET", "HEAD"}


@pytest.mark.parametrize("value", ["seven", "07", "1.5", "", "9" * 30, "0x1"])
def test_what_is_no_number_is_refused_from_variables_too(assert_mistake, value) -> None:
    assert_mistake(whole(server='server: {max_headers: ‸"${N}"}'), "wrong-type", "a whole number", N=value)


@pytest.mark.parametrize("value", ["yes", "1", "True", ""])
def test_what_is_no_truth_value_is_refused_from_variables_too(assert_mistake, value) -> None:
    assert_mistake(route("server_timing: ‸${F}"), "wrong-type", "true or false", F=value)


def test_a_value_can_t_change_the_shape_of_the_file(assert_mistake, load_text) -> None:
    text = whole(upstreams=f"upstreams: {{a: {MARK}'${{U}}'}}")
    assert_mistake(text, "wrong-type", "a mapping is expected", U="{url: http://127.0.0.1}")
    assert _token(load_text, "'${T}'", T='"}]#x') == '"}]#x'


def test_a_line_break_from_a_variable_is_refused_where_headers_come_from_it(assert_mistake) -> None:
    text = whole(iam="iam:\n  url: http://127.0.0.1\n  token: ‸${T}")
    assert_mistake(text, "bad-secret", T="a\r\nX-Admin: 1")


def test_keys_are_not_filled_in(assert_mistake) -> None:
    assert_mistake(whole(server='server: {‸"${X}": 1}'), "unknown-key", X="name")


def test_text_from_a_variable_is_plain_text_afterwards(load_text) -> None:
    configuration = load_text(whole(server='server: {name: "${NAME}"}'), NAME="e")
    assert type(configuration.server.name) is str


def test_the_environment_is_the_one_that_is_given(assert_mistake, monkeypatch) -> None:
    monkeypatch.setitem(os.environ, "IAM_TOKEN", "x")
    assert_mistake(whole(iam="iam:\n  url: http://127.0.0.1\n  token: ‸${IAM_TOKEN}"), "unset-variable")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (route("upstream: ${V}").replace("    upstream: a\n", ""), "S3cret-name"),
        (route("methods: ['${V}']"), "S3cret-method"),
        (route("deadline: ${V}"), "S3cret-deadline"),
        (route("server_timing: ${V}"), "S3cret-flag"),
        (whole(iam="iam: {url: '${V}'}"), "http://S3cret_host!/"),
        (whole(iam="iam: {url: 'http://${V}'}"), "S3cret_host!"),
        (whole(iam="iam: {url: 'http://a/', api: '${V}'}"), "S3cret-" + "x" * 80),
        (whole(iam="iam: {url: 'http://a/', token: 'a b', batch: {max_size: '${V}'}}"), "S3cret-size"),
        (whole(iam="iam: {url: 'http://a/', api: '${file:secret}'}"), "S3cret-file"),
        (route("methods: ['${V}-and-more']"), "S3cret-method"),
    ],
)
def test_no_message_shows_what_a_variable_or_a_file_held(mistakes, tmp_path, text, value) -> None:
    (tmp_path / "secret").write_text(value)
    found = mistakes(text, {"secret": value}, V=value)
    assert found
    assert "s3cret" not in "\n".join(map(str, found)).lower()
    assert any("${" in each.message for each in found) or not any('"' in each.message for each in found)
