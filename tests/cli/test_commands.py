"""What each command says and how it ends (0 fine, 1 not fine, 2 used wrongly, 3 cannot)."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway import build
from gateway.cli import app, output
from tests.cli.conftest import CONFIGURATION, Run

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "serve",
    "validate",
    "diff",
    "replay",
    "report",
    "routes",
    "explain",
    "schema",
    "health",
    "reload",
    "status",
    "iam",
    "policy",
    "policy test",
    "demo",
    "drill",
)


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("--frobnicate",),
        ("validate", "--output", "xml"),
        ("validate", "one", "two"),
        ("routes", "--match", "nowhere"),
        ("routes", "--match", "GET nowhere"),
        ("explain",),
        ("explain", "GET /known"),
        ("explain", "GET /known", "--subject", "alice", "--header", "no equals sign"),
        ("explain", "GET /known", "--subject", "alice", "--claim", "role"),
        ("schema", "extra"),
        ("health", "--require", "101"),
        ("health", "--require", "most"),
        ("health", "--output", "yaml"),
        ("serve", "--workers", "0"),
        ("serve", "--workers", "many"),
        ("serve", "--listen", "nonsense"),
        ("serve", "--listen", "127.0.0.1:99999"),
        ("serve", "--admin", "127.0.0.1:-1"),
        ("iam", "--listen", "nonsense"),
        ("iam", "--capacity", "-1"),
        ("policy", "frobnicate"),
        ("drill",),
        ("drill", "iam-gone"),
        ("drill", "iam-down", "--for", "soon"),
        ("demo", "extra"),
    ],
)
def test_wrong_use_is_2_and_says_so_on_stderr(run: Run, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    ran.says(2, err="Error: ")
    assert ran.out == ""
    assert ran.err.startswith("Usage: gateway")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(run: Run, command: str) -> None:
    ran = run(*command.split(), "--help")
    ran.says(0, out=f"Usage: gateway {command}".rstrip())
    assert ran.err == ""
    assert run(*command.split(), "-h").out == ran.out


@pytest.mark.parametrize("group", [(), ("policy",)])
def test_without_a_command_the_help_is_shown_and_the_use_was_wrong(run: Run, group: tuple[str, ...]) -> None:
    ran = run(*group)
    assert ran.code == 2
    assert "Commands:" in ran.out + ran.err


def test_the_version_is_data(run: Run) -> None:
    ran = run("--version")
    ran.says(0)
    assert ran.out == f"gateway {build()}\n"


def test_the_schema_is_the_one_in_the_repository(run: Run) -> None:
    ran = run("schema")
    ran.says(0)
    assert json.loads(ran.out) == json.loads((ROOT / "routes.schema.json").read_text())


def test_routes_are_a_table_for_programs(run: Run) -> None:
    ran = run("routes")
    ran.says(0)
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert rows[0] == ["id", "host", "path", "methods", "to", "if IAM is down"]
    assert {len(row) for row in rows} == {6}
    assert [row[0] for row in rows[1:]] == ["inventory", "switch", "tenant", "open", "known", "menu"]
    assert "\x1b" not in ran.out


def test_the_table_says_of_an_outage_what_validate_says(run: Run) -> None:
    rows = [line.split("\t") for line in run("routes").out.splitlines()[1:]]
    matrix = json.loads(run("validate", "--output", "json").out)["routes"]
    for row in rows:
        outcomes = {one["outcome"] for one in matrix if one["route"] == row[0]}
        assert ("503" in row[5]) == ("fail_closed" in outcomes)
        assert ("unaffected" in row[5]) == ("unaffected" in outcomes)
        assert ("unknown" in row[5]) == ("unknown" in outcomes)


@pytest.mark.parametrize(
    ("request_text", "route"),
    [
        ("GET /inventory/7", "inventory"),
        ("get /inventory", "inventory"),
        ("/inventory/", "inventory"),
        ("HEAD /inventory/switches/a/b", "inventory"),
        ("GET tenant.example/inventory/7", "tenant"),
        ("GET https://tenant.example:8443/inventory/7?x=1", "tenant"),
        ("DELETE /known", "known"),
    ],
)
def test_match_names_the_chosen_route(run: Run, request_text: str, route: str) -> None:
    ran = run("routes", "--match", request_text)
    ran.says(0)
    assert ran.out == f"{route}\n"


def test_match_shows_the_path_parameters(run: Run) -> None:
    assert run("routes", "--match", "GET /inventory/switches/sw%201").out == "switch\n  switch = sw 1\n"


@pytest.mark.parametrize(
    ("request_text", "code"),
    [
        ("GET /nowhere", "route_not_found"),
        ("POST /open/x", "method_not_allowed"),
        ("TRACE /known", "method_not_allowed"),
        ("GET /inventory/../known", "bad_request"),
        ("GET /inventory/%2e%2e", "bad_request"),
        ("GET //inventory", "bad_request"),
        ("GET /ünicode", "bad_request"),
    ],
)
def test_match_of_nothing_is_1_with_the_reason(run: Run, request_text: str, code: str) -> None:
    run("routes", "--match", request_text).refuses(1, "no match", code)


def test_explain_shows_the_exact_question(run: Run) -> None:
    ran = run("explain", "GET /inventory/7", "--subject", "alice")
    ran.says(0, out="POST http://127.0.0.1:1/access/v1/evaluations")
    assert "inventory  /inventory/*  (routes.yaml:7:5)" in ran.out
    assert "serves stale up to 60s" in ran.out
    question = json.loads(ran.out[ran.out.index("{\n") : ran.out.rindex("}") + 1])
    assert [evaluation["resource"]["id"] for evaluation in question["evaluations"]] == ["inventory", "/inventory/*"]
    assert question["options"] == {"evaluations_semantic": "execute_all"}


def test_explain_uses_what_the_request_brings(run: Run) -> None:
    ran = run("explain", "POST /inventory/7?system=a%2Fb", "--subject", "alice")
    ran.says(0, out='"id": "a/b"')
    missing = run("explain", "POST /inventory/7", "--subject", "alice")
    missing.says(1, out="route     inventory", err="refused: bad_request (400)")


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("GET /open/x", "the route is unaffected"),
        ("GET /known", "the route is unaffected"),
        ("GET /menu", "the route shows access as unknown"),
        ("POST /inventory/7?system=x", "the route answers 503"),
    ],
)
def test_explain_says_what_happens_with_iam_down(run: Run, request_text: str, said: str) -> None:
    run("explain", request_text, "--subject", "alice").says(0, out=f"IAM down  {said}")


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("GET /open/x", "identity  nobody is asked who they are: the route is public"),
        ("GET /inventory/7", "identity  the header x-user, believed only from server.trusted_proxies"),
        ("GET /inventory/7", "cache     every request asks IAM; permits are remembered for 5m"),
        ("GET /inventory/7", "whoever was permitted this within the last 60s goes on"),
        ("POST /inventory/7?system=x", "stale     not used here (fail_closed)"),
    ],
)
def test_explain_says_what_stands_behind_a_decision(run: Run, request_text: str, said: str) -> None:
    run("explain", request_text, "--subject", "alice").says(0, out=said)


def test_explain_says_when_there_is_no_running_gateway_to_ask(run: Run) -> None:
    run("explain", "GET /open/x", "--admin", "http://127.0.0.1:1").says(3, err="cannot ask http://127.0.0.1:1")


def test_explain_says_that_items_are_asked_about(run: Run) -> None:
    run("explain", "GET /menu", "--subject", "alice").says(0, out="about each item of the document: {item.action}")


@pytest.mark.parametrize(
    ("iam", "sent"),
    [
        ("discovery: true", "POST http://127.0.0.1:1/access/v1/evaluations, unless discovery says otherwise"),
        ("api: json", "POST http://127.0.0.1:1/iam/authorize/batch"),
        ("api: json, batch_path: null", "POST http://127.0.0.1:1/iam/authorize\n"),
        ("api: opa, path: edge/allow", "POST http://127.0.0.1:1/v1/data/edge/allow"),
    ],
)
def test_explain_knows_every_way_of_asking(run: Run, folder: Path, iam: str, sent: str) -> None:
    text = CONFIGURATION.replace("iam: {", f"iam: {{{iam}, token: geheim, ")
    (folder / "routes.yaml").write_text(text)
    ran = run("explain", "GET /inventory/7", "--subject", "alice")
    ran.says(0, out=sent)
    assert "geheim" not in ran.out + ran.err


def test_explain_of_no_route_is_1(run: Run) -> None:
    run("explain", "GET /nowhere", "--subject", "alice").refuses(1, "route_not_found")


@pytest.fixture
def embedded(folder: Path) -> None:
    access = folder / "policies" / "access"
    access.mkdir(parents=True)
    text = 'permit (principal == Identity::"alice", action == Action::"read", resource);\n'
    (access / "who.cedar").write_text(text)
    (access / "entities.json").write_text("[]")
    configuration = CONFIGURATION.splitlines()
    configuration[2] = "iam: {api: embedded}"
    (folder / "routes.yaml").write_text("\n".join(configuration) + "\n")


@pytest.mark.parametrize(
    ("request_text", "subject", "code"),
    [
        ("GET /inventory/switches/1", "alice", 0),
        ("GET /inventory/switches/1", "bob", 1),
        ("GET /inventory/7", "alice", 1),
        ("GET /open/x", "nobody", 0),
        ("GET /known", "bob", 0),
    ],
)
@pytest.mark.usefixtures("embedded")
def test_explain_asks_the_embedded_policies(run: Run, request_text: str, subject: str, code: int) -> None:
    run("explain", request_text, "--subject", subject, "--ask").says(code)


@pytest.mark.hazard
def test_explain_asks_an_iam_that_is_not_there(run: Run) -> None:
    ran = run("explain", "GET /inventory/7", "--subject", "alice", "--ask")
    ran.says(3, out="read system:inventory: unknown (iam_unreachable: connect 127.0.0.1:1: refused)")


@pytest.mark.usefixtures("embedded")
def test_policy_test_counts_and_fails_with_places(run: Run, folder: Path) -> None:
    cases = folder / "policies" / "access" / "who.cases.toml"
    case = '[[case]]\nwhy = "{}"\nsubject = "{}"\ncheck = ["read system:a"]\nallow = true\n'
    cases.write_text(case.format("she may", "alice"))
    run("policy", "test").says(0, out="pass\t", err="1 passed, 0 failed")
    cases.write_text(case.format("she may", "alice") + case.format("he may", "bob"))
    ran = run("policy", "test")
    ran.says(1, out="FAIL\t", err="1 passed, 1 failed")
    assert "who.cases.toml:6:1: error[case-failed]" in ran.err
    cases.write_text("[[case]\n")
    run("policy", "test").refuses(1, "who.cases.toml:1:", "error[")


@pytest.mark.parametrize("arguments", [("policy", "test", "nowhere"), ("iam", "--policies", "nowhere")])
def test_a_folder_that_is_not_there_is_one_line(run: Run, arguments: tuple[str, ...]) -> None:
    run(*arguments).refuses(1, "nowhere:1:1: error[no-folder]")


def test_a_drill_without_a_demo_is_one_line(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    run("drill", "iam-down").refuses(1, "no demo is running")


@pytest.mark.hazard
def test_commands_import_only_what_they_need() -> None:
    """`gateway --help` answers at once: nothing heavy is imported with the command line."""
    script = "import sys, gateway.cli; print([name for name in ('httpx', 'uvicorn', 'cedarpy') if name in sys.modules])"
    import subprocess  # the one use

    done: Any = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_a_table_on_a_terminal_is_never_cut(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    written = Terminal()
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    rows = [["user-audit.bulk", "", "/audit/users/{email}", "GET,HEAD serves stale up to 60s; POST answers 503"]]
    output.table(["id", "host", "path", "if IAM is down"], rows)
    shown = written.getvalue()
    assert all(cell in shown for cell in rows[0])
    assert "…" not in shown


def test_the_list_of_commands_is_not_cut_in_60_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = CliRunner().invoke(app, ["--help"], terminal_width=60).stdout
    assert "serve" in shown
    assert "..." not in shown.partition("Commands:")[2]
