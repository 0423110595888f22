"""`load`: the files → one frozen Configuration, or ConfigurationError with every mistake.

Order: read and compose, fill in variables, validate each section by itself, compile it with what is known of the
others, then look across. A section with mistakes still takes part as far as it goes, so that one run tells all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.config.compile_context import CompileContext
from gateway.config.failure_rules import check_rules
from gateway.config.files import Files
from gateway.config.iam import IamKeys, IamShadowKeys, compile_iam, compile_shadow
from gateway.config.identity import KINDS, IdentityKeys, compile_identity
from gateway.config.keys import NAME, Keys
from gateway.config.policies import (
    access_texts,
    built_in_policies,
    read_access_policies,
    read_policies,
    validate_policies,
)
from gateway.config.problems import ConfigurationError, Mark, Problems, quoted
from gateway.config.resilience import compile_resilience
from gateway.config.route_checks import Placed, check_ids, check_names, check_ties, warn_of_short_deadlines, warn_unused
from gateway.config.route_keys import Outline, RouteKeys
from gateway.config.routes import compile_route
from gateway.config.server import ServerKeys, compile_server
from gateway.config.tree import Interpolation, Node
from gateway.config.upstreams import UpstreamKeys, compile_upstream
from gateway.config.validate import Section, refuse_pending, validate
from gateway.config.yaml_reader import read_yaml
from gateway.model.settings import Configuration, IamApi, Identity, OpaqueIdentity

K = TypeVar("K", bound=Keys)
_STAND_INS: Final[Mapping[str, Any]] = {"id": "unnamed", "path": "/", "authorize": "public"}


def load(path: Path, environ: Mapping[str, str], contents: Mapping[Path, bytes] | None = None) -> Configuration:
    """Reads `path` and the folder `policies` beside it. Raises ConfigurationError with all mistakes.

    `contents`: those of a configuration that was loaded before, to load exactly that one again.
    """
    problems = Problems()
    path = path if path.name else path.absolute()  # `.` has no name
    files = Files(path.absolute().parent, problems, contents)
    if files.read(Mark(str(path)), path.name) is None:
        raise ConfigurationError(problems.errors)
    interpolate = Interpolation(environ, files.read_text, problems)
    access_policies = read_access_policies(path.parent, files, problems)
    policies = read_policies(path.parent, files, interpolate, problems)
    root = _root(path, files, interpolate, problems)
    configuration = None
    if root is not None:
        reading = _Reading(root, path, files, policies, access_policies, problems)
        configuration = reading.configuration()
    if problems.errors or configuration is None:
        raise ConfigurationError(problems.errors)
    return configuration


def _root(path: Path, files: Files, interpolate: Interpolation, problems: Problems) -> Node | None:
    content = files.read(Mark(str(path)), path.name)
    tree = None if content is None else read_yaml(str(path), content, problems)
    if tree is None:
        return None
    refuse_pending(tree, problems)
    return interpolate(tree)


@dataclass(frozen=True, slots=True)
class _Sections:
    """The sections that could be read; None where nothing usable is there."""

    server: Section[ServerKeys]
    iam: Section[IamKeys] | None
    iam_shadow: Section[IamShadowKeys] | None
    identity: Section[IdentityKeys] | None
    upstreams: dict[str, Section[UpstreamKeys]]
    routes: list[Section[RouteKeys]]


class _Reading:
    """One run over one set of files."""

    def __init__(
        self,
        root: Node,
        path: Path,
        files: Files,
        policies: dict[str, Node],
        access_policies: Path | None,
        problems: Problems,
    ) -> None:
        self._root = root
        self._path = path
        self._files = files
        self._policies = policies
        self._access_policies = access_policies
        self._problems = problems

    def configuration(self) -> Configuration | None:
        """The configuration, None where something was wrong; it was then noted."""
        sections = self._sections()
        world = self._world(sections)
        for policy in validate_policies(self._policies, self._problems):
            compile_resilience(policy, world)
            check_rules(policy, world)
        server = compile_server(sections.server, world)
        iam = compile_iam(sections.iam, world) if sections.iam else None
        shadow = compile_shadow(sections.iam_shadow, world) if sections.iam_shadow else None
        identity = self._identity(sections, world)
        upstreams = {name: compile_upstream(name, each, world) for name, each in sections.upstreams.items()}
        placed = self._routes(sections, world)
        self._look_across(sections, placed)
        if iam is not None and iam.api is not IamApi.EMBEDDED:
            warn_of_short_deadlines(placed, iam.timeout.total_s, self._problems)
        if self._problems.errors or iam is None:
            return None
        return Configuration(
            server=server,
            iam=iam,
            iam_shadow=shadow,
            identity=identity or OpaqueIdentity(),
            upstreams=upstreams,
            routes=tuple(each.route for each in placed),
            hash=self._files.hash,
            file=self._path,
            files=self._files.paths,
            contents=self._files.contents,
            access_policies=self._access_policies,
            access_texts=access_texts(self._access_policies, self._files),
            warnings=tuple(map(str, self._problems.warnings)),
        )

    def _sections(self) -> _Sections:
        validate(self._root, Outline, self._problems)
        routes = self._root.get("routes")
        found = [validate(node, RouteKeys, self._problems, _STAND_INS) for node in (routes.items() if routes else ())]
        empty = Node(self._root.mark, {})
        server = self._section("server", ServerKeys) or Section(empty, ServerKeys())
        return _Sections(
            server=server,
            iam=self._section("iam", IamKeys),
            iam_shadow=self._section("iam_shadow", IamShadowKeys),
            identity=self._section("identity", IdentityKeys),
            upstreams=self._upstreams(),
            routes=[section for section in found if section is not None],
        )

    def _section(self, name: str, model: type[K]) -> Section[K] | None:
        node = self._root.get(name)
        return validate(node, model, self._problems) if node is not None and isinstance(node.value, dict) else None

    def _upstreams(self) -> dict[str, Section[UpstreamKeys]]:
        holder = self._root.get("upstreams")
        found = {}
        for name, node in holder.members().items() if holder else ():
            mark = holder.keys[name] if holder else node.mark
            self._check_upstream_name(name, mark)
            section = validate(node, UpstreamKeys, self._problems)
            if section is not None:
                found[name] = section
        return found

    def _check_upstream_name(self, name: str, mark: Mark) -> None:
        if name == "iam" or (name == "iam_shadow" and self._root.get("iam_shadow") is not None):
            self._problems.error(mark, "same-name", f'"{name}" is the name of IAM itself where systems are shown')
        elif not NAME.match(name):
            message = f"{quoted(name)}: a name is letters, digits, '.', '_' and '-', at most 100 of them"
            self._problems.error(mark, "bad-name", message)

    def _world(self, sections: _Sections) -> CompileContext:
        server, iam, identity = sections.server, sections.iam, sections.identity
        kinds = [kind for kind in KINDS if identity is not None and identity.has(kind)]
        holder = self._root.get("upstreams")
        return CompileContext(
            problems=self._problems,
            files=self._files,
            identity=kinds[0] if len(kinds) == 1 else "",
            upstreams=frozenset(holder.members() if holder else ()),
            policies={**built_in_policies(), **self._policies},
            access_policies=self._access_policies is not None,
            decisions=server.has("decisions"),
            max_stale_s=iam.keys.cache.max_stale if iam and iam.sound("cache", "max_stale") else None,
            deadline_s=server.keys.deadline,
            max_body=server.keys.max_body,
            max_concurrency=server.keys.max_concurrency,
        )

    def _identity(self, sections: _Sections, world: CompileContext) -> Identity | None:
        if sections.identity is None:
            return None
        server = sections.server
        trusted = bool(server.keys.trusted_proxies) if server.sound("trusted_proxies") else None
        return compile_identity(sections.identity, world, trusted_proxies=trusted)

    def _routes(self, sections: _Sections, world: CompileContext) -> list[Placed]:
        placed = []
        for section in sections.routes:
            for index, route in enumerate(compile_route(section, world)):
                path = ("aggregate", "bulk", "path") if index else ("path",)
                placed.append(Placed(route, section.at("id"), section.at(*path)))
        return placed

    def _look_across(self, sections: _Sections, placed: list[Placed]) -> None:
        check_ids([(each.keys.id, each.at("id")) for each in sections.routes if each.sound("id")], self._problems)
        check_ties(placed, self._problems)
        check_names(placed, self._problems, shadow=sections.iam_shadow is not None)
        holder = self._root.get("upstreams")
        if holder is not None and not self._problems.errors:
            warn_unused(holder.keys.items(), [each.route for each in placed], self._problems)
