"""Hooks of the build: the README for package indexes, and the hot rooms compiled with mypyc where that is asked for.

`GATEWAY_COMPILE=1 pip wheel .` compiles what `[tool.hatch.build.hooks.custom]` lists; where no C compiler is found, the
wheel is the pure one. With `GATEWAY_COMPILE=require` that is an error. The `.py` files are in either wheel: they are
the source of truth, and what a traceback shows.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE: Final = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n+", re.MULTILINE)
_LINK: Final = re.compile(r"\[(?P<words>[^\]]+)\]\((?!https?:)[^)]*\)")

COMPILE: Final = "GATEWAY_COMPILE"
LIBRARY: Final = "gateway_compiled"
"""Begins the name of the one shared object that holds all compiled modules; `gateway.build()` looks for it."""


class CustomMetadataHook(MetadataHookInterface):
    """`[tool.hatch.metadata.hooks.custom]`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Give the project its `readme`."""
        metadata["readme"] = {"content-type": "text/markdown", "text": standing_alone(self._readme())}

    def _readme(self) -> str:
        return (Path(self.root) / "README.md").read_text(encoding="utf-8")


def standing_alone(markdown: str) -> str:
    """The document without pictures and links that only the repository has."""
    return _LINK.sub(r"\g<words>", _PICTURE.sub("", markdown))


class CustomBuildHook(BuildHookInterface[Any]):
    """`[tool.hatch.build.hooks.custom]`: `modules` are compiled, `requires` is what that needs."""

    def dependencies(self) -> list[str]:
        """What has to be installed to build: for a compiled wheel also what the modules import, as mypy reads it."""
        return [*self.metadata.core.dependencies, *self.config["requires"]] if self._wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled modules to the wheel."""
        if version == "editable" or not self._wanted():
            return
        self._folder = Path(tempfile.mkdtemp(prefix="gateway-compiled-"))
        made = compile_modules(Path(self.root), self.config["modules"], self._folder)
        build_data["force_include"].update({str(file): str(file.relative_to(self._folder)) for file in made})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, *_: Any) -> None:
        """Leave nothing behind."""
        folder = getattr(self, "_folder", None)
        if folder is not None:
            shutil.rmtree(folder)

    def _wanted(self) -> bool:
        wanted = self.target_name == "wheel" and os.environ.get(COMPILE, "") not in ("", "0")
        if wanted and not _has_compiler():
            if os.environ[COMPILE] == "require":
                raise RuntimeError(f"{COMPILE}=require, but there is no C compiler")
            self.app.display_warning("There is no C compiler: the pure package is built")
            return False
        return wanted


def _has_compiler() -> bool:
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return shutil.which(command.split()[0]) is not None


def compile_modules(root: Path, modules: Sequence[str], into: Path, level: str = "2") -> list[Path]:
    """The extension modules made of `modules` (paths below `root`), laid out below `into` as the package is.

    `level` is the C compiler's: what is wrong with compiled code is wrong at each, and 0 takes half the time.
    """
    from mypyc.build import mypycify  # only a compiled build has them
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    before = Path.cwd()
    os.chdir(root)  # mypy takes its settings, and modules their names, from there
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-c-") as work:
            extensions = mypycify(
                list(modules), opt_level=level, debug_level="0", multi_file=True, target_dir=work, group_name=LIBRARY
            )
            build = build_ext(Distribution({"ext_modules": extensions}))
            build.build_lib, build.build_temp = str(into), work
            build.ensure_finalized()
            _side_by_side(build)
            build.run()
    finally:
        os.chdir(before)
    return sorted(into.rglob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"))


def _side_by_side(build: Any) -> None:
    """Compile as many C files at once as there are processors: setuptools takes those of one library in turn."""
    build_all = build.build_extensions

    def build_extensions() -> None:
        compile_them = build.compiler.compile

        def compile_each(sources: list[str], *args: Any, **named: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                made = pool.map(lambda source: compile_them([source], *args, **named), sources)
                return [each for objects in made for each in objects]

        build.compiler.compile = compile_each
        build_all()

    build.build_extensions = build_extensions


def main() -> None:
    """`python hatch_build.py FOLDER [LEVEL]`: the compiled modules alone, for tests and measurements."""
    root = Path(__file__).parent
    hook = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["hooks"]
    compile_modules(root, hook["custom"]["modules"], Path(sys.argv[1]).resolve(), *sys.argv[2:3])


if __name__ == "__main__":
    main()
