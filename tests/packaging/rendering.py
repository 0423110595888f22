"""The chart rendered by Helm's own engine, as the objects that a cluster would get."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

ROOT = Path(__file__).parents[2]
HELM = ROOT / "helm"


@cache
def rendered(file: Path) -> tuple[dict[str, Any], ...]:
    return tuple(render(yaml.safe_load(file.read_text()) or {}))


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    with Chart.load(HELM) as chart:
        manifests = chart.render(values=values, name="release", namespace="prod")
    texts = [text for name, text in manifests.items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def one(objects: Any, kind: str) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def lay_out(pod: dict[str, Any], objects: Any, folder: Path) -> Path:
    """The files of a pod's configuration as its volume shows them; gives back routes.yaml."""
    (volume,) = [each["configMap"] for each in pod["volumes"] if each["name"] == "config"]
    (data,) = [
        each["data"] for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] == volume["name"]
    ]
    assert {item["key"] for item in volume["items"]} == set(data)
    for item in volume["items"]:
        file = folder / item["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(data[item["key"]])
    return folder / "routes.yaml"
