"""Parquet files as they are found: types that differ from file to file, partitions, images as paths."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.errors import CorruptData, SourceChanged
from ratchet.shards.shards import Shards
from tasks.ingest import ingest
from tasks.refresh import refresh
from tests.helpers.data_samples import pictures

pytest_plugins = ["tests.helpers.data_fixtures"]


@pytest.fixture
def ingested(configured, tree):
    """Ingest `data/incoming` and return all rows."""

    def run(keep=(), **keys: Any) -> pa.Table:
        source = {"type": "parquet", "path": "data/incoming", "label": "label", **keys}
        params = configured(source, ingest={"keep": list(keep)})
        refresh.fn(params, tree)
        ingest.fn(params, tree)
        tables = [table for shard in Shards.open(tree / "data/raw") for table in shard.batches()]
        return pa.concat_tables(tables)

    return run


def write(tree: Path, name: str, **columns: Any) -> Path:
    file = tree / "data/incoming" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return file


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            pa.array([1, 2]),
            pa.array([0.5, None]),
            [1.0, 2.0, 0.5, None],
        ),  # astronomy-commons/hats-import#487
        (pa.array([1], pa.int32()), pa.array([2], pa.int64()), [1.0, 2.0]),  # duckdb/duckdb#1214
        (pa.array([0.5], pa.float32()), pa.array([0.25]), [0.5, 0.25]),
        (pa.nulls(2), pa.array([1, 2]), [None, None, 1.0, 2.0]),
        (pa.array([1.0, 2.0]), pa.nulls(2, pa.string()), [1.0, 2.0, None, None]),
        (pa.array([True]), pa.array([0]), [1.0, 0.0]),
        (
            pa.array([Decimal("1.5")]),
            pa.array([Decimal("100.25")]),
            [1.5, 100.25],
        ),  # huggingface/dataset-viewer#3173
        (pa.array(["1"]), pa.array([2]), [1.0, 2.0]),
        (pa.array([1, 2]).dictionary_encode(), pa.array([3]), [1.0, 2.0, 3.0]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_features_are_unified(ingested, tree, first, second, expected) -> None:
    write(tree, "a.parquet", x=first, label=["a"] * len(first))
    write(tree, "b.parquet", x=second, label=["b"] * len(second))
    assert ingested(features=["x"])["feature:x"].to_pylist() == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pa.array([0, 1]), pa.array([1.0, None]), ["0", "1", "1", None]),
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), ["a", "b"]),
        (pa.array([1]), pa.array(["A12"]), ["1", "A12"]),
        (pa.nulls(1), pa.array(["a"]), [None, "a"]),
        (pa.array([True]), pa.array(["true"]), ["true", "true"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_labels_and_kept_columns_are_unified(ingested, tree, first, second, expected) -> None:
    write(tree, "a.parquet", x=np.arange(float(len(first))), label=first)
    write(tree, "b.parquet", x=np.arange(float(len(second))), label=second)
    rows = ingested(features=["x"], keep=["label"])
    assert rows["label"].to_pylist() == rows["keep:label"].to_pylist() == expected


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("label=cat", "cat"),
        ("label=007", "007"),  # apache/arrow#39660
        ("label=1.0", "1"),  # apache/arrow#39763
        ("label=__HIVE_DEFAULT_PARTITION__", None),
        ("label=a%2Fb%20c", "a/b c"),
        ("label=a=b", "a=b"),
        ("year=2024/label=größe", "größe"),
        ("%6Cabel=cat", "cat"),
        ("label=%FF", "%FF"),  # not UTF-8
        ("label=50%", "50%"),
        ("_year=2024/label=cat", "cat"),  # apache/arrow#42160
    ],
)
def test_partitions(ingested, tree, folder, expected) -> None:
    write(tree, f"{folder}/part-0.snappy.parquet", x=[1.0, 2.0])
    assert ingested(features=["x"])["label"].to_pylist() == [expected] * 2


@pytest.mark.parametrize("pattern", ["label=*", "*", "*/*.parquet", "**/*.parquet", "label=[cd]*"])
def test_a_pattern_of_partitions(ingested, tree, pattern) -> None:
    write(tree, "label=cat/a.parquet", x=[1.0])
    write(tree, "label=dog/a.parquet", x=[2.0])
    (tree / "data/incoming/empty").mkdir()
    rows = ingested(features=["x"], path=f"data/incoming/{pattern}")
    assert rows["label"].to_pylist() == ["cat", "dog"]


def test_a_partition_is_the_split_a_feature_and_kept(ingested, tree) -> None:
    for split in ("train", "Validation"):
        write(tree, f"part={split}/year=2024/a.parquet", x=[1.0], label=["a"])
    rows = ingested(features=["x", "year"], keep=["year"], split="part")
    assert rows["split"].to_pylist() == ["val", "train"]
    assert (
        rows["feature:year"].to_pylist() == [2024.0] * 2
        and rows["keep:year"].to_pylist() == ["2024"] * 2
    )


def test_partitions_as_pyarrow_and_polars_write_them(ingested, tree) -> None:
    import polars as pl

    table = pa.table({"x": [1.0, 2.0, 3.0], "label": ["a b", "c/d", None]})
    pq.write_to_dataset(table, tree / "data/incoming/one", partition_cols=["label"])
    pl.DataFrame(table).write_parquet(tree / "data/incoming/two", partition_by="label", mkdir=True)
    labels = ingested(features=["x"])["label"].to_pylist()
    assert sorted(labels, key=str) == [None, None, "a b", "a b", "c/d", "c/d"]


def test_a_folder_and_its_file_must_agree(ingested, tree) -> None:
    write(tree, "label=cat/a.parquet", x=[1.0], label=["cat"])
    assert ingested(features=["x"])["label"].to_pylist() == ["cat"]
    write(tree, "label=dog/a.parquet", x=[1.0], label=["cat"])
    with pytest.raises(
        CorruptData, match=r"the column label holds cat, but its folder says label=dog"
    ):
        ingested(features=["x"])


@pytest.mark.parametrize(
    "name",
    [
        "_SUCCESS.parquet",
        "_metadata.parquet",
        ".hidden.parquet",
        "_delta_log/0.parquet",
        "._temporary/a.parquet",
    ],
)
def test_what_engines_skip_is_skipped(ingested, tree, name) -> None:
    write(tree, "a.parquet", x=[1.0], label=["a"])
    write(tree, name, x=[2.0], label=["b"])
    assert ingested(features=["x"])["label"].to_pylist() == ["a"]


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def paths(tree: Path, *names: str, folder: str = "") -> Path:
    column = pa.array([{"bytes": None, "path": name} for name in names], IMAGE)
    return write(tree, f"{folder}a.parquet", image=column, label=["a", "b"] * (len(names) // 2))


def test_images_that_are_paths_are_read(ingested, tree) -> None:
    """As `Dataset.to_parquet()` writes them: huggingface/datasets#6923."""
    folder = tree / "data/incoming/photos"
    folder.mkdir(parents=True)
    images = pictures(2)
    for name, image in zip("xy", images, strict=True):
        (folder / f"{name}.png").write_bytes(image)
    paths(tree, "photos/x.png", str(folder / "y.png"))
    found = ingested(image="image")["image"].to_pylist()
    assert [image["bytes"] for image in found] == images
    assert [image["path"] for image in found] == ["photos/x.png", "photos/y.png"]


def test_images_that_are_paths_are_pinned(ingested, configured, tree) -> None:
    folder = tree / "data/incoming"
    folder.mkdir(parents=True)
    for name, image in zip("xy", pictures(2), strict=True):
        (folder / f"{name}.png").write_bytes(image)
    paths(tree, "x.png", "y.png")
    ingested(image="image")
    (folder / "x.png").write_bytes(pictures(1, seed=9)[0])
    params = configured(
        {"type": "parquet", "path": "data/incoming", "label": "label", "image": "image"}
    )
    for entry in (tree / ".memo/ingest").iterdir():
        (entry / "manifest.json").unlink()
    with pytest.raises(
        SourceChanged,
        match=r"the images that a\.parquet names are not those that source\.lock pins",
    ):
        ingest.fn(params, tree)


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../../secret.png", "gone.png", "https://example.org/x.png"]
)
def test_images_elsewhere_are_never_read(ingested, tree, name) -> None:
    (tree / "secret.png").write_bytes(pictures(1)[0])
    paths(tree, name, name)
    with pytest.raises(
        CorruptData,
        match=r"a\.parquet holds paths of images instead of the images.*embed the images",
    ):
        ingested(image="image")
