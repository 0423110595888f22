"""What MkDocs does not do by itself with our documents (`hooks` in mkdocs.yml).

- Documents at the root and files that pages link to (`../routes.yaml`) become part of the site, and links lead there.
- A tested session becomes blocks that copy well: its commands without prompts, and what they print apart.
- Diagrams are drawn by a copy of Mermaid on the site itself (`scripts/site` fetches it); without it they stand as text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parents[1]
MERMAID: Final = ROOT / ".tools" / "mermaid" / "mermaid.min.js"
SCRIPT: Final = "assets/mermaid.min.js"
PAGES: Final = (
    *("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "helm/README.md"),
    *(f"docs/adr/{path.name}" for path in sorted((ROOT / "docs" / "adr").glob("*.md"))),
)
HOME: Final = {"README.md": "docs/index.md"}
"""The README is for whoever looks at the repository; the site has a first page of its own."""
_LINK: Final = re.compile(r"(?<=\]\()(?!#|[a-z]+:)(?P<path>[^)#\s]+)")
_FENCE: Final = re.compile(
    r"^(?P<mark>`{3,})(?P<kind>\w+)(?: (?P<word>\S+))?\n(?P<text>.*?)^(?P=mark)$", re.MULTILINE | re.DOTALL
)
_HIDDEN: Final = re.compile(r"^<!-- tested\n.*?^-->\n?", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> None:
    """Draw diagrams where Mermaid is at hand."""
    if MERMAID.exists():
        import material.extensions  # noqa: F401 - the theme is there
        from pymdownx.superfences import fence_code_format

        fence = {"name": "mermaid", "class": "mermaid", "format": fence_code_format}
        config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}
        config.extra_javascript.append(SCRIPT)


def on_files(files: Files, config: Any) -> Files:
    """Add the documents outside docs/, and the files that pages link to."""
    for name in PAGES:
        if not name.startswith("docs/"):
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for page in list(files.documentation_pages()):
        for name in _linked(page.src_uri, Path(page.abs_src_path).read_text(encoding="utf-8")):
            if files.get_file_from_path(name) is None and (ROOT / name).is_file():
                files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    if MERMAID.exists():
        files.append(File.generated(config, SCRIPT, abs_src_path=str(MERMAID)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to where things are on the site, and sessions into blocks that can be copied."""
    home = page.file.src_uri
    turned = _LINK.sub(lambda link: _relative(home, link["path"]), _HIDDEN.sub("", markdown))
    return _FENCE.sub(_block, turned)


def _place(home: str, link: str) -> str:
    """Where a link of a document leads, as a path on the site: docs/ is its root."""
    folder = posixpath.dirname(home if home in PAGES else f"docs/{home}")
    whole = posixpath.normpath(posixpath.join(folder, link))
    return HOME.get(whole, whole).removeprefix("docs/")


def _relative(home: str, link: str) -> str:
    return posixpath.relpath(_place(home, link), posixpath.dirname(home) or ".")


def _linked(home: str, text: str) -> set[str]:
    return {_place(home, link["path"]) for link in _LINK.finditer(_FENCE.sub("", text))}


def _block(fence: re.Match[str]) -> str:
    mark, kind, word, text = fence["mark"], fence["kind"], fence["word"], fence["text"]
    if kind == "console":
        return _session(mark, text)
    title = f' title="{word}"' if word and "." in word else ""
    return f"{mark}{kind}{title}\n{text}{mark}"


def _session(mark: str, text: str) -> str:
    """Commands and output by turns."""
    blocks: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        command = line.startswith("$ ") or bool(blocks and blocks[-1][0] == "sh" and blocks[-1][1][-1].endswith("\\"))
        kind = "sh" if command else "{.text .no-copy}"
        if not blocks or blocks[-1][0] != kind:
            blocks.append((kind, []))
        blocks[-1][1].append(line.removeprefix("$ "))
    shown = [(kind, lines) for kind, lines in blocks if lines not in (["…"], [""])]
    return "\n\n".join("\n".join([f"{mark}{kind}", *lines, mark]) for kind, lines in shown)
