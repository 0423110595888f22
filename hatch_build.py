"""The README as package indexes show it: links into the repository lead nowhere there, so their words stay alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE: Final = re.compile(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n+", re.MULTILINE)
_LINK: Final = re.compile(r"\[(?P<words>[^\]]+)\]\((?!https?:)[^)]*\)")


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
