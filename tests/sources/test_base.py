"""What every type of source has in common."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ratchet.source_params import ParquetSource
from ratchet.sources.base import Places, unused_split


@pytest.mark.parametrize(
    ("path", "here", "place"),
    [
        ("data/pets", True, "tree"),
        ("data/pets", False, "home"),
        ("data/incoming", True, "home"),  # a run's tree has an empty one
        ("data/incoming/a.parquet", True, "home"),
        ("incoming", True, "tree"),
        ("data/incoming2", True, "tree"),
    ],
)
def test_a_path_is_in_the_tree_or_in_the_main_checkout(
    tmp_path: Path, path: str, here: bool, place: str
) -> None:
    places = Places(tmp_path / "tree", tmp_path / "home")
    if here:
        (places.tree / path).mkdir(parents=True)
    assert places.find(path) == tmp_path / place / path
    assert places.find(str(tmp_path)) == tmp_path


def test_only_text_beside_the_label_looks_like_a_split() -> None:
    source = ParquetSource(type="parquet", path="x", label="set", features=("x",))
    words = ["train", "test"]
    assert unused_split(pa.table({"set": words, "x": [1.0, 2.0]}), source) is None
    assert (
        unused_split(pa.table({"set": ["a", "b"], "split": [0, 1], "part": words}), source)
        == "part"
    )
    named = ParquetSource(type="parquet", path="x", label="y", features=("x",), split="s")
    assert unused_split(pa.table({"part": words}), named) is None
