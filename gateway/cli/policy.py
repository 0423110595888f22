"""`gateway policy test`: run the tables of cases beside the policies.

On a terminal the results are a tree; elsewhere one tab-separated line a case, for programs. Failed cases stand with
their place and with what the policies said, and on stderr as `FILE:LINE:COL: error[case-failed]: …`.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import EXIT_BAD, fail, note, say

if TYPE_CHECKING:
    from rich.text import Text

    from gateway.pdp.cases import FileResult, Result


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    policy = typer.Typer(help="Work on access policies.", no_args_is_help=True)
    app.add_typer(policy, name="policy")

    @policy.callback()
    def _policy() -> None:
        """Work on access policies."""

    @policy.command()
    def test(
        folder: Annotated[Path, typer.Argument(help="*.cedar, entities.json and *.cases.toml.")] = Path(
            "policies/access"
        ),
    ) -> None:
        """Run the cases beside the policies."""
        from gateway.pdp.cases import run_cases  # heavy
        from gateway.pdp.problem import PolicyError

        try:
            files = run_cases(folder)
        except PolicyError as error:
            fail(str(error))
        (_show_tree if sys.stdout.isatty() else _show_lines)(folder, files)
        results = [result for file in files for result in file.results]
        failed = [result for result in results if not result.passed]
        for result in failed:
            note(f"{result.case.place}: error[case-failed]: {_sentence(result)}")
        note(f"{len(results) - len(failed)} passed, {len(failed)} failed")
        if failed:
            raise typer.Exit(EXIT_BAD)


def _sentence(result: Result) -> str:
    wanted = "allow" if result.case.allow else "deny"
    return f"{result.case.asks}: expected {wanted}, got {result.outcome} ({result.verdict.reason}): {result.case.why}"


def _show_lines(_folder: Path, files: list[FileResult]) -> None:
    for file in files:
        for result in file.results:
            word = "pass" if result.passed else "FAIL"
            cells = (word, result.case.place, result.case.asks, result.outcome, result.case.why)
            say("\t".join(" ".join(cell.split()) for cell in cells))


def _show_tree(folder: Path, files: list[FileResult]) -> None:
    from rich.console import Console  # heavy, and only for terminals
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(str(folder), "bold"))
    for file in files:
        branch = tree.add(Text(file.name, "bold"))
        for (_, why), group in itertools.groupby(file.results, lambda result: (result.case.place, result.case.why)):
            results = list(group)
            passed = all(result.passed for result in results)
            case = branch.add(Text.assemble(_mark(passed=passed), why))
            for result in results:
                case.add(_leaf(result))
    Console().print(tree)


def _leaf(result: Result) -> Text:
    from rich.text import Text

    said = f"  {result.outcome} ({result.verdict.reason})"
    return Text.assemble(_mark(passed=result.passed), result.case.asks, (said, "dim" if result.passed else "red"))


def _mark(*, passed: bool) -> tuple[str, str]:
    return ("✓ ", "green") if passed else ("✗ ", "bold red")
