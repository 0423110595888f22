"""scripts/check_compiled.py finds what mypyc compiles wrongly, and nothing where the code is plain."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


def _script():
    spec: Any = spec_from_file_location("check_compiled", ROOT / "scripts" / "check_compiled.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = _script()

WRONG = {
    "finally": """
        async def f(self):
            verdict = None
            try:
                verdict = await self.decide()
            finally:
                self.tell(verdict)
        """,
    "finally, by an annotation": """
        def f(self):
            found: Found | None = None
            try:
                found = self.look()
            finally:
                if found is None:
                    self.tell()
        """,
    "finally, an attribute": """
        async def f(self):
            self.task = None
            try:
                self.task = self.start()
                await self.task
            finally:
                if self.task is not None:
                    self.task.cancel()
        """,
    "awaited": """
        async def f(self):
            self.next = None
            await self.run()
            if self.next is None:
                self.end()
        """,
    "awaited, both at once": """
        async def f(self):
            run, self.next = self.next, None
            await run()
            return self.next is not None
        """,
    "awaited, after it was set": """
        async def f(self):
            reply = self.reply = Reply()
            try:
                await reply.wait()
            except BaseException:
                if self.reply is reply:
                    self.reply = None
                raise
        """,
    "awaited, after a test": """
        async def f(self):
            if self.next is None:
                await self.wait()
                if self.next is not None:
                    self.go()
        """,
    "awaited, after a test that left": """
        async def f(self):
            if self.next is not None:
                return
            await self.wait()
            if self.next is None:
                self.end()
        """,
    "awaited, by async with": """
        async def f(self):
            self.next = None
            async with self.lock:
                pass
            if self.next is None:
                self.end()
        """,
    "final": """
        @dataclass(slots=True)
        class Case:
            request: Final[Request]
        """,
    "reraise": """
        async def f(self):
            try:
                await self.ask()
            except GatewayError:
                if await self.stand_in():
                    return
                raise
        """,
}

RIGHT = {
    "a name is raised": """
        async def f(self):
            try:
                await self.ask()
            except GatewayError as error:
                if await self.stand_in():
                    return
                raise error
        """,
    "nothing is awaited before": """
        async def f(self):
            try:
                await self.ask()
            except BaseException:
                self.tell(None)
                raise
        """,
    "it is set anew": """
        async def f(self):
            self.next = None
            await self.run()
            self.next = self.take()
            if self.next is None:
                self.end()
        """,
    "a function says it": """
        async def f(self):
            run = self.taken()
            await run()
            if self.taken() is None:
                self.end()
        """,
    "only cleaned up": """
        async def f(self):
            span = self.start()
            try:
                await self.ask()
            finally:
                span.end()
        """,
    "it is made by hand": """
        @dataclass(init=False, slots=True)
        class Case:
            request: Final[Request]

            def __init__(self, request):
                self.request = request
        """,
    "another function's await": """
        async def f(self):
            self.next = None

            async def later():
                await self.run()

            if self.next is None:
                self.end(later)
        """,
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_compiled_wrongly_is_found(name: str):
    kinds = {fault.kind for fault in check.faults_in(dedent(WRONG[name]))}
    assert name.partition(",")[0] in kinds


@pytest.mark.parametrize("name", RIGHT)
def test_plain_code_is_left_alone(name: str):
    assert check.faults_in(dedent(RIGHT[name])) == []


def test_an_interpreted_class_below_a_compiled_one_is_found(tmp_path: Path):
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "hot.py").write_text("class Hot: ...\n")
    (tmp_path / "gateway" / "cold.py").write_text("from gateway.hot import Hot\nclass Cold(Hot): ...\n")
    assert [fault.what for fault in check.subclasses(tmp_path, ["gateway/hot.py"])] == ["Cold(Hot)"]
    assert list(check.subclasses(tmp_path, ["gateway/hot.py", "gateway/cold.py"])) == []


def test_every_module_that_is_to_be_compiled_is_there_and_has_none_of_it(capsys: pytest.CaptureFixture[str]):
    modules = check.compiled_modules(ROOT)
    assert [file for file in modules if not (ROOT / file).is_file()] == []
    assert len(set(modules)) == len(modules)
    assert "gateway/errors.py" not in modules  # its subclasses are interpreted
    assert check.main() == 0, capsys.readouterr().out
