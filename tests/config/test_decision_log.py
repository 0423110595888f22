"""`server.decision_log`: what it may say."""

from __future__ import annotations

import pytest

from tests.config.texts import JWT, whole


def server(keys: str) -> str:
    return f"server:\n  decision_log: {{{keys}}}"


def test_all_of_it_is_optional_but_the_path(load_text) -> None:
    log = load_text(whole(identity=JWT, server=server("path: d.jsonl"))).server.decision_log
    assert (log.path.name, log.permits, log.subject, log.values, log.key) == ("d.jsonl", 1.0, "plain", "plain", None)
    assert log.path.is_absolute()
    assert load_text(whole()).server.decision_log is None


@pytest.mark.parametrize(("text", "share"), [("all", 1.0), ("none", 0.0), ("1%", 0.01), ("100%", 1.0)])
def test_permits_are_all_none_or_a_share(load_text, text: str, share: float) -> None:
    configuration = load_text(whole(identity=JWT, server=server(f"path: d.jsonl, permits: {text}")))
    assert configuration.server.decision_log.permits == pytest.approx(share)


@pytest.mark.parametrize("text", ["some", "0%", "101%", "-1%", "1", "true"])
def test_nothing_else_is_a_share(assert_mistake, text: str) -> None:
    assert_mistake(whole(identity=JWT, server=server(f"path: d.jsonl, permits: \u2038{text}")), "bad-share")


@pytest.mark.parametrize("keys", ["subject: hash", "values: hash"])
def test_what_is_hashed_needs_a_key(mistakes, load_text, keys: str) -> None:
    (mistake,) = mistakes(whole(identity=JWT, server=server(f"path: d.jsonl, {keys}")))
    assert mistake.id == "key-needed"
    assert load_text(whole(identity=JWT, server=server(f'path: d.jsonl, {keys}, key: "${{KEY}}"')), KEY="k")
    assert mistakes(whole(identity=JWT, server=server(f'path: d.jsonl, {keys}, key: "${{KEY:-}}"')))


def test_opaque_tokens_need_a_key_unless_subjects_are_left_out(mistakes) -> None:
    (mistake,) = mistakes(whole(server=server("path: d.jsonl")))
    assert "opaque tokens are always hashed" in mistake.message
    assert not mistakes(whole(server=server("path: d.jsonl, subject: none")))


def test_a_folder_is_no_log_and_a_missing_one_is_told(assert_mistake, load_text) -> None:
    assert_mistake(whole(identity=JWT, server=server("path: \u2038policies")), "bad-path", "", {"policies/x.txt": ""})
    (warning,) = load_text(whole(identity=JWT, server=server("path: nowhere/d.jsonl"))).warnings
    assert "no-folder" in warning


def test_its_key_is_a_secret(load_text) -> None:
    from gateway.config import masked  # one test only

    configuration = load_text(whole(identity=JWT, server=server("path: d.jsonl, key: s3cret")))
    assert "s3cret" not in str(masked(configuration)) + repr(configuration.server)


def test_properties_are_of_plain_subjects_only(assert_mistake, load_text) -> None:
    log = load_text(whole(identity=JWT, server=server("path: d.jsonl, properties: true"))).server.decision_log
    assert log.properties is True
    hashed = whole(identity=JWT, server=server("path: d.jsonl, subject: hash, key: k, properties: \u2038true"))
    assert_mistake(hashed, "misplaced-key", "plain subjects only")
    assert_mistake(whole(server=server("path: d.jsonl, key: k, properties: \u2038true")), "misplaced-key", "")
