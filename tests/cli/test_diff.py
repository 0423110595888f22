"""`gateway diff` as a program for people and for CI."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import CONFIGURATION, Run


def other(folder: Path, before: str = "", after: str = "") -> str:
    (folder / "new.yaml").write_text(CONFIGURATION.replace(before, after))
    return str(folder / "new.yaml")


def test_no_difference_is_0(run: Run, folder: Path) -> None:
    ran = run("diff", "routes.yaml", other(folder), "--fail-on-weaker")
    ran.says(0, err="no difference")
    assert ran.out == ""


def test_weaker_stands_first_and_fails_where_asked(run: Run, folder: Path) -> None:
    new = other(folder, "authorize: authenticated}\n", "authorize: public, deadline: 3s}\n")
    ran = run("diff", "routes.yaml", new)
    ran.says(0, err="weaker, 1 other")
    lines = ran.out.splitlines()
    assert "weaker  known: GET is public, was authenticated" in lines
    assert lines[-1].startswith("other   known: deadline")
    assert run("diff", "routes.yaml", new, "--fail-on-weaker").code == 1


def test_the_document_has_the_same(run: Run, folder: Path) -> None:
    ran = run("diff", "routes.yaml", other(folder, "max_stale: 60s", "max_stale: 90s"), "--output", "json")
    document = json.loads(ran.out)
    assert ran.code == 0
    assert {"where": "inventory", "change": "GET is stale for up to 90s, was 60s"} in document["weaker"]
    assert document["other"] == []


def test_stricter_is_not_weaker(run: Run, folder: Path) -> None:
    new = other(folder, "authorize: authenticated}\n", 'authorize: ["read a:b"]}\n')
    run("diff", "routes.yaml", new, "--fail-on-weaker").says(0, out="other   known: ")


def test_what_cannot_be_read_is_2(run: Run, folder: Path) -> None:
    run("diff", "routes.yaml", "nowhere.yaml").says(2, err="nowhere.yaml")
    run("diff", str(folder), "routes.yaml").says(2, err="error[")
    run("diff", "routes.yaml", other(folder, "version: 1", "version: 7")).says(2, err="new.yaml:1:")


EMBEDDED = """
version: 1
iam: {api: embedded}
identity: {opaque: {}}
upstreams: {a: {url: http://127.0.0.1:1}}
routes: [{id: r, path: /r, upstream: a, methods: [GET], authorize: ["read system:r"]}]
"""


def test_policies_that_may_permit_more_fail_in_doubt(run: Run, folder: Path) -> None:
    """Nobody has looked, but a forbid that is gone must not pass unseen."""
    permit = "permit (principal, action, resource);"
    for name, more in (("old", 'forbid (principal, action, resource == System::"s");'), ("new", "")):
        (folder / name / "policies" / "access").mkdir(parents=True)
        (folder / name / "routes.yaml").write_text(EMBEDDED)
        (folder / name / "policies" / "access" / "a.cedar").write_text(permit + more)
    files = ("old/routes.yaml", "new/routes.yaml")
    run("diff", *files).says(0, out="maybe   policies: policies changed", err="may permit more")
    run("diff", *files, "--fail-on-weaker").says(1, err="gateway replay")
    run("diff", *reversed(files), "--fail-on-weaker").says(0, out="other   policies: policies changed")
    loose = (folder / "new" / "routes.yaml").read_text().replace('["read system:r"]', "public")
    (folder / "new" / "routes.yaml").write_text(loose)
    assert run("diff", *files, "--fail-on-weaker").code == 1
