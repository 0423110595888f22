"""The size and shape of the code: `python scripts/measure_house.py [--trace]`. Prints each measure beside its goal.

Core: the packages that a request passes through, and `config`. Not counted in it: what stands beside the request path
(`admin`, `app`, `cli`, `decide`, `demo`, `evidence`, `pdp`, `starter`, and `config.proxies`, which writes other
proxies' files). Empty `__init__.py` count as files, as they do for a reader.
"""

from __future__ import annotations

import ast
import io
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "gateway"
BESIDE: Final = frozenset({"admin", "app", "cli", "decide", "demo", "evidence", "pdp", "starter"})
_DIRECTIVES: Final = ("noqa", "type:", "pragma", "fmt:", "!")
_SAME_BY_NATURE: Final = frozenset({"__init__.py", "__main__.py"})


class Measure(NamedTuple):
    """One figure, and whether it is what it should be."""

    name: str
    figure: str
    goal: str
    reached: bool


def is_core(file: Path) -> bool:
    """Whether a file belongs to the request path or to the configuration."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] not in BESIDE and parts[:2] != ("config", "proxies") and file.name != "__main__.py"


def imports_of(file: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of the package that are imported when this one is: not in functions, not for types alone."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(modules)


def circles(files: Iterable[Path]) -> int:
    """Modules that import themselves over others, and those that import such ones."""
    modules = {_module(file): file for file in files}
    left = {name: imports_of(file, modules) - {name} for name, file in modules.items()}
    # Whoever imports nothing that is left cannot be in a circle.
    while free := [name for name, needs in left.items() if not needs & set(left)]:
        for name in free:
            del left[name]
    return len(left)


def _module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def comments_in(text: str) -> int:
    """Lines with a comment for a reader."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    said = (token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
    return sum(bool(comment) and not comment.startswith(_DIRECTIVES) for comment in said)


def function_lengths(text: str) -> list[int]:
    """Lines of each function, its decorators and docstring aside."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            found.append(1 + (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 1)
    return found


def percentile(figures: list[int], share: float) -> int:
    """The figure that this share does not exceed."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * share))]


def walked_by_one_get() -> int | None:
    """Files of the package that one warm GET runs through, IAM asked once; None where it cannot be traced."""
    said = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "walked.py")],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return len(said.stdout.split()) if said.returncode == 0 else None


def measures(*, trace: bool) -> list[Measure]:
    """All of them."""
    files = sorted(PACKAGE.rglob("*.py"))
    texts = {file: file.read_text() for file in files}
    lines = {file: len(text.splitlines()) for file, text in texts.items()}
    core = [lines[file] for file in files if is_core(file)]
    every = list(lines.values())
    names = Counter(file.name for file in files if file.name not in _SAME_BY_NATURE)
    shared = sum(count > 1 for count in names.values())
    comments = 100 * sum(map(comments_in, texts.values())) / sum(every)
    noqa = sum(text.count("# noqa") for text in texts.values())
    functions = [length for text in texts.values() for length in function_lengths(text)]
    median, p90, longest = statistics.median(every), percentile(every, 0.9), max(every)
    short, long = statistics.median(functions), percentile(functions, 0.9)
    circular = circles(files)
    found = [
        Measure("files of the core", str(len(core)), "<= 150", len(core) <= 150),
        Measure("files of the package", str(len(files)), "", True),
        Measure("lines of the package", f"{sum(every):,}", "", True),
        Measure("lines of a file, median", f"{median:g}", "130-180", 130 <= median <= 180),
        Measure("lines of a file, p90", str(p90), "<= 330", p90 <= 330),
        Measure("lines of a file, longest", str(longest), "<= 450", longest <= 450),
        Measure("file names shared by two things", str(shared), "<= 20", shared <= 20),
        Measure("comments per 100 lines", f"{comments:.1f}", ">= 2", comments >= 2),
        Measure("noqa", str(noqa), "<= 40", noqa <= 40),
        Measure("lines of a function, median", f"{short:g}", "<= 6", short <= 6),
        Measure("lines of a function, p90", str(long), "<= 16", long <= 16),
        Measure("modules in an import circle", str(circular), "0", circular == 0),
    ]
    if trace:
        walked = walked_by_one_get()
        found.append(Measure("files of one warm GET", str(walked), "<= 48", walked is not None and walked <= 48))
    return found


def main() -> int:
    """Print them; what is missed is said, and is no failure."""
    found = measures(trace="--trace" in sys.argv)
    for measure in found:
        missed = "" if measure.reached else "MISSED"
        print(f"{measure.name:34} {measure.figure:>8}   {measure.goal:8} {missed}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
