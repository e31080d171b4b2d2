"""Sources to shards."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.errors import CorruptData, SourceChanged, SourceMissing
from ratchet.files import sha256
from ratchet.shards.shards import Shards
from tasks.ingest import ingest
from tasks.refresh import refresh
from tests.helpers.data_samples import image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in sorted(folder.iterdir())}


def test_real_images_become_shards_and_the_same_source_gives_the_same_bytes(sample, tree, tmp_path):
    refresh.fn(sample, tree)
    ingest.fn(sample, tree)
    shards = Shards.open(tree / "data" / "raw")
    assert (
        shards.kind == "image"
        and shards.info["rows"] == 600
        and shards.info["classes"][9] == "Ankle boot"
    )
    assert [shard.rows for shard in shards] == [400, 200]
    table = next(iter(shards)).batches(rows=3).__next__()
    assert table.column_names == ["row_id", "label", "split", "image"]
    assert len(table["row_id"][0].as_py()) == 32 and table["split"][0].as_py() == "train"
    first = hashes(tree / "data" / "raw")
    for leftover in (tree / ".memo").rglob("*.parquet"):
        leftover.unlink()
    ingest.fn(sample, tree)
    assert hashes(tree / "data" / "raw") == first


def test_shards_hold_no_more_rows_than_asked(configured, parquet, tree):
    params = configured(parquet(), ingest={"shard_rows": 7})
    image_file(tree / "data/incoming/a.parquet", pictures(20), list(range(20)))
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    assert [shard.rows for shard in Shards.open(tree / "data" / "raw")] == [7, 7, 6]


def test_a_file_that_is_not_what_the_lock_pins_is_refused(configured, parquet, tree):
    params = configured(parquet())
    file = image_file(tree / "data/incoming/a.parquet", pictures(3), [0, 1, 2])
    refresh.fn(params, tree)
    image_file(file, pictures(3, seed=1), [0, 1, 2])
    with pytest.raises(
        SourceChanged,
        match=r"a.parquet in .* is not what source.lock pins: expected .* found .*ratchet refresh",
    ):
        ingest.fn(params, tree)
    file.unlink()
    with pytest.raises(
        SourceMissing,
        match=r"source.lock pins a.parquet, but it is missing from .*/data/incoming; copy",
    ):
        ingest.fn(params, tree)
    assert not (tree / "data" / "raw").exists()


def test_without_a_lock_or_with_that_of_other_sources_nothing_is_read(
    configured, parquet, sample, tree
):
    with pytest.raises(
        SourceChanged, match=r"source.lock does not exist yet; run `ratchet refresh`"
    ):
        ingest.fn(sample, tree)
    image_file(tree / "data/incoming/a.parquet", pictures(3), [0, 1, 2])
    refresh.fn(configured(parquet()), tree)
    with pytest.raises(
        SourceChanged,
        match=r"params.yaml no longer asks for what source.lock pins: .*sources.0.type: parquet → torchvision",
    ):
        ingest.fn(sample, tree)


@pytest.mark.fault(15)
def test_sources_without_a_common_schema_are_refused_with_their_difference(
    configured, parquet, tree
):
    image_file(tree / "data/incoming/a.parquet", pictures(3), [0, 1, 2])
    pq.write_table(pa.table({"x": [1.0], "label": ["cat"]}), tree / "data/incoming/b.parquet")
    table = parquet("data/incoming/b.parquet", image=None, features=["x"])
    params = configured(parquet("data/incoming/a.parquet"), table)
    refresh.fn(params, tree)
    difference = (
        r"sources 0 and 1 have different columns: x: missing / double, image: struct<.*> / missing"
    )
    with pytest.raises(CorruptData, match=difference):
        ingest.fn(params, tree)


@pytest.mark.fault(15)
def test_a_missing_column_is_named_with_those_there(configured, parquet, tree):
    image_file(tree / "data/incoming/a.parquet", pictures(3), [0, 1, 2])
    params = configured(parquet(label="class"))
    refresh.fn(params, tree)
    with pytest.raises(CorruptData, match=r"a.parquet has no column class; it has image, label"):
        ingest.fn(params, tree)


def test_one_new_file_leaves_the_others_unread(configured, parquet, tree):
    params = configured(parquet())
    image_file(tree / "data/incoming/a.parquet", pictures(3), [0, 1, 2])
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    (entry,) = (tree / ".memo" / "ingest").iterdir()
    before = entry.stat().st_ino
    image_file(tree / "data/incoming/b.parquet", pictures(3, seed=1), [0, 1, 2])
    assert refresh.fn(params, tree)["changed"]
    ingest.fn(params, tree)
    assert entry.stat().st_ino == before
    assert len(list((tree / ".memo" / "ingest").iterdir())) == 2
    assert json.loads((tree / "data/raw/dataset.json").read_text())["rows"] == 6


def named_classes(file: Path, labels: list[int], *names: str) -> None:
    image_file(file, pictures(len(labels), seed=len(file.name)), labels)
    described = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    table = pq.read_table(file).replace_schema_metadata({"huggingface": json.dumps(described)})
    pq.write_table(table, file)


def test_sources_that_name_different_classes_are_not_combined(configured, parquet, tree):
    named_classes(tree / "a/a.parquet", [0, 1], "cat", "dog")
    named_classes(tree / "b/same.parquet", [1, 0], "cat", "dog")
    image_file(tree / "c/plain.parquet", pictures(2, seed=9), ["cat", "dog"])
    params = configured(parquet("a"), parquet("b"), parquet("c"))
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    assert Shards.open(tree / "data/raw").info["classes"] == ["cat", "dog"]
    named_classes(tree / "b/same.parquet", [1, 0], "cat", "newt")
    refresh.fn(params, tree)
    with pytest.raises(
        CorruptData,
        match=r"^the sources name different classes: cat, dog; cat, newt; combine sources",
    ):
        ingest.fn(params, tree)


def test_a_column_that_looks_like_a_split_is_told_once_for_each_source(
    configured, parquet, tree, capsys
):
    for folder in "ab":
        for name in "xyz":
            split = ["train", "test"] if name != "x" else ["1", "2"]
            image_file(
                tree / f"{folder}/{name}.parquet",
                pictures(2, seed=ord(name)),
                ["cat", "dog"],
                part=split,
            )
    params = configured(parquet("a"), parquet("b"))
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    lines = [
        line.partition(" with names")[0]
        for line in capsys.readouterr().out.splitlines()
        if "split" in line
    ]
    assert lines == ["ingest: y.parquet has a column part"] * 2
    assert Shards.open(tree / "data/raw").info["rows"] == 12
