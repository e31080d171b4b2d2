"""Small checkouts and their params.

A pytest plugin, named by the tests of the rooms that use it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet import params as parameters
from ratchet.git import git
from ratchet.params import Params
from tests.helpers.data_samples import ASSETS, REPOSITORY


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty checkout."""
    git("init", "--quiet", str(tmp_path / "tree"), cwd=tmp_path)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def configured(tree: Path) -> Callable[..., Params]:
    """params.yaml with other sources and other values in its sections, all work in this process."""

    def make(*sources: dict[str, Any], **sections: dict[str, Any]) -> Params:
        import ruamel.yaml

        raw = ruamel.yaml.YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text())
        if sources:
            raw["ingest"]["sources"] = list(sources)
        raw["run"]["workers"] = 1
        for section, values in sections.items():
            raw[section].update(values)
        return parameters.parse(raw)

    return make


@pytest.fixture
def sample(configured: Callable[..., Params]) -> Params:
    """600 real images in a root that the params name."""
    return configured(
        {"type": "torchvision", "name": "FashionMNIST", "root": str(ASSETS), "arguments": {}}
    )


@pytest.fixture
def parquet() -> Callable[..., dict[str, Any]]:
    def source(path: str = "data/incoming", **values: Any) -> dict[str, Any]:
        return {
            "type": "parquet",
            "path": path,
            "label": "label",
            "image": "image",
            "features": None,
            **values,
        }

    return source
