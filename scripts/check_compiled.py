"""What the compiler of the hot rooms gets wrong without a word, found in the modules that pyproject.toml lists for it.

mypyc trusts what mypy has narrowed a name to. So compiled code goes wrong where mypy's view is behind:

finally     a variable that was None before `try`, is bound within it, and is read in `finally`: after an exception it
            is still None, but is compiled as what the end of `try` left
awaited     an attribute that may be None was set or compared with None before an `await`, and is looked at after it:
            others ran meanwhile, but it is compiled as what it was before
reraise     `raise` alone after an `await` in `except`: it raises whatever the task handled last
final       a dataclass makes its own `__init__`, which may not write what is Final
subclass    an interpreted class whose base is compiled: it cannot be made, and an exception of that kind crashes
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Fault(NamedTuple):
    """One place."""

    file: str
    line: int
    kind: str
    what: str


def compiled_modules(root: Path) -> list[str]:
    """What a compiled wheel compiles, as paths below `root`."""
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    modules: list[str] = build["hooks"]["custom"]["modules"]
    return modules


def faults_in(source: str, file: str = "") -> list[Fault]:
    """What goes wrong in one module."""
    found: list[Fault] = []
    tree = ast.parse(source)
    optional = _optional(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found += _in_finally(node, file)
        if isinstance(node, ast.AsyncFunctionDef):
            found += _Narrowing(node, file, optional).faults
        if isinstance(node, ast.ExceptHandler):
            found += _reraised(node, file)
        if isinstance(node, ast.ClassDef):
            found += _unwritable(node, file)
    return sorted(set(found))


def _optional(tree: ast.AST) -> set[str]:
    """The attributes that may be None, by their names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and "None" in ast.unparse(node.annotation).split(" | "):
            found.add(ast.unparse(node.target).rpartition(".")[2])
    return found | {place.rpartition(".")[2] for place in _set_to_none(ast.walk(tree)) if "." in place}


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What runs as part of this, in the order of the text: not what functions defined in it do."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _FUNCTIONS):
            yield child
            yield from _own(child)


def _all_own(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    for each in body:
        if not isinstance(each, _FUNCTIONS):
            yield each
            yield from _own(each)


def _bound(nodes: Iterator[ast.AST]) -> set[str]:
    return {ast.unparse(each) for each in nodes if _is_place(each) and isinstance(each.ctx, ast.Store)}


def _is_place(node: ast.AST) -> bool:
    """A variable, or an attribute of one."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))


def _set_to_none(nodes: Iterator[ast.AST]) -> set[str]:
    found = set()
    for each in nodes:
        if isinstance(each, (ast.Assign, ast.AnnAssign)) and _is_none(each.value):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            found |= {ast.unparse(target) for target in targets}
    return found


def _is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _in_finally(function: ast.FunctionDef | ast.AsyncFunctionDef, file: str) -> Iterator[Fault]:
    for each in _own(function):
        if isinstance(each, ast.Try) and each.finalbody:
            before = (node for node in _own(function) if getattr(node, "lineno", each.lineno) < each.lineno)
            tried = [*each.body, *each.orelse, *(node for handler in each.handlers for node in handler.body)]
            suspects = _set_to_none(before) & _bound(_all_own(tried))
            for node in _all_own(each.finalbody):
                if _is_place(node) and isinstance(node.ctx, ast.Load) and ast.unparse(node) in suspects:
                    yield Fault(file, node.lineno, "finally", ast.unparse(node))


def _reraised(handler: ast.ExceptHandler, file: str) -> Iterator[Fault]:
    awaited = False
    for node in _all_own(handler.body):
        awaited = awaited or isinstance(node, ast.Await)
        if isinstance(node, ast.Raise) and node.exc is None and awaited:
            yield Fault(file, node.lineno, "reraise", "raise")


def _unwritable(node: ast.ClassDef, file: str) -> Iterator[Fault]:
    made = [ast.unparse(each) for each in node.decorator_list if "dataclass" in ast.unparse(each)]
    if made and "init=False" not in made[0]:
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and ast.unparse(each.annotation).startswith("Final"):
                yield Fault(file, each.lineno, "final", f"{node.name}.{ast.unparse(each.target)}")


class _Narrowing(ast.NodeVisitor):
    """Walks a coroutine in the order of its text. `_known`: attributes that mypy narrowed, after how many awaits."""

    def __init__(self, function: ast.AsyncFunctionDef, file: str, optional: set[str]) -> None:
        self.faults: list[Fault] = []
        self._file = file
        self._optional = optional
        self._known: dict[str, int] = {}
        self._awaits = 0
        for statement in function.body:
            self.visit(statement)

    def visit_FunctionDef(self, node: ast.AST) -> None:
        """What it does happens elsewhere."""

    def visit_AsyncFunctionDef(self, node: ast.AST) -> None:
        """The same."""

    def visit_Lambda(self, node: ast.AST) -> None:
        """The same."""

    def visit_Await(self, node: ast.Await) -> None:
        self.generic_visit(node)
        self._awaits += 1

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._awaits += 1
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self.generic_visit(node)
        self._awaits += 1

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._assigned(target, node.value)

    def visit_If(self, node: ast.If) -> None:
        """Each branch starts from what the test says; where both meet again, nothing is known of what it looked at."""
        self.visit(node.test)
        before = dict(self._known)
        tested = _compared(node.test)
        self._known |= dict.fromkeys(tested, self._awaits)
        narrowed, awaits = dict(self._known), [self._awaits]
        for part in (node.body, node.orelse):
            self._known, self._awaits = dict(narrowed), awaits[0]
            for statement in part:
                self.visit(statement)
            awaits.append(self._awaits)
        self._awaits = max(awaits)
        ends = bool(node.body) and isinstance(node.body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))
        self._known = before | (dict.fromkeys(tested, self._awaits) if ends else {})
        if not ends:
            for place in tested | _bound(_all_own([*node.body, *node.orelse])):
                self._known.pop(place, None)

    def visit_While(self, node: ast.While) -> None:
        """Its test is made anew in each turn, so mypy knows that it does not know."""
        for place in _compared(node.test):
            self._known.pop(place, None)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        place = ast.unparse(node)
        if self._known.get(place, self._awaits) < self._awaits:
            self.faults.append(Fault(self._file, node.lineno, "awaited", place))
        self.generic_visit(node)

    def _assigned(self, target: ast.AST, value: ast.AST) -> None:
        if isinstance(target, ast.Tuple):
            values = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
            for each, its in zip(target.elts, values, strict=False):
                self._assigned(each, its)
        elif _is_none(value) or (isinstance(target, ast.Attribute) and target.attr in self._optional):
            self._known[ast.unparse(target)] = self._awaits
        else:
            self._known.pop(ast.unparse(target), None)


def _compared(test: ast.AST) -> set[str]:
    """The attributes that are compared with None."""
    found = set()
    for node in ast.walk(test):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
            left, right = node.left, node.comparators[0]
            if _is_none(right) and isinstance(left, ast.Attribute):
                found.add(ast.unparse(left))
    return found


def subclasses(root: Path, modules: Sequence[str]) -> Iterator[Fault]:
    """Interpreted classes below compiled ones."""
    compiled = {file.removesuffix(".py").replace("/", ".") for file in modules}
    for path in sorted((root / "gateway").rglob("*.py")):
        file = str(path.relative_to(root))
        if file in modules:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.asname or alias.name: node.module or ""
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
                    if imported.get(name) in compiled:
                        yield Fault(file, node.lineno, "subclass", f"{node.name}({name})")


def main() -> int:
    """The exit code: 1 if there is anything."""
    root = Path(__file__).parent.parent
    modules = compiled_modules(root)
    found = [fault for file in modules for fault in faults_in((root / file).read_text(encoding="utf-8"), file)]
    found += subclasses(root, modules)
    for fault in found:
        print(f"{fault.file}:{fault.line}: {fault.kind}: {fault.what}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
