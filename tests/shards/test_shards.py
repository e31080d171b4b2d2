"""Shards written, listed and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.errors import CorruptData
from ratchet.files import sha256
from ratchet.shards import parquet, shards
from ratchet.shards.shards import Shard, Shards


def listed(raw: Path, *tables: pa.Table, **facts: Any) -> Shards:
    """`data/raw/` with one shard for each table."""
    raw.mkdir(exist_ok=True)
    entries = []
    for number, table in enumerate(tables):
        path = raw / f"shard-{number:05d}.parquet"
        rows = shards.write(path, iter([table]))
        entries.append(
            {
                "file": path.name,
                "rows": rows,
                "sha256": sha256(path),
                "source": number % 2,
                "origin": "a",
            }
        )
        entries[-1]["splits"] = ["test"] if number == 2 else []
    info = {"format": 2, "kind": "features", "features": ["x"], "shards": entries, **facts}
    (raw / shards.DATASET).write_text(json.dumps(info))
    return Shards.open(raw)


def table(*ids: str, **more: list[Any]) -> pa.Table:
    return pa.table({"row_id": list(ids), "label": [f"label {name}" for name in ids], **more})


def test_rows_come_in_the_order_asked_for_from_all_shards(tmp_path: Path) -> None:
    listed(tmp_path, table("a", "b"), table("c", "a", "d"))
    assert shards.rows(tmp_path, ["d", "a", "c", "a"])["label"].to_pylist() == [
        "label d",
        "label a",
        "label c",
        "label a",
    ]
    with pytest.raises(CorruptData, match=rf"^2 of 3 rows are not in {tmp_path}"):
        shards.rows(tmp_path, ["y", "a", "z"])


def test_of_rows_with_one_id_the_first_stands_for_all(tmp_path: Path) -> None:
    listed(
        tmp_path, table("a", "a", **{"feature:x": [1.0, 2.0]}), table("a", **{"feature:x": [3.0]})
    )
    assert shards.rows(tmp_path, ["a"])["feature:x"].to_pylist() == [1.0]


def test_the_first_format_had_plain_names(tmp_path: Path) -> None:
    old = table("a", "b", split=["train", "test"], image=[b"", b""], x=[1.0, 2.0])
    listed(tmp_path, old, format=1)
    assert shards.rows(tmp_path, ["b"]).to_pylist() == [
        {"row_id": "b", "label": "label b", "split": "test", "image": b"", "feature:x": 2.0}
    ]
    listed(tmp_path, old)
    assert "x" in shards.rows(tmp_path, ["b"]).column_names


def test_which_rows_of_a_list_are_in_a_shard(tmp_path: Path) -> None:
    (shard,) = listed(tmp_path, table("c", "b", "a", "b"))
    assert shard.among({"b", "c", "z"}) == ["b", "c"]
    assert shard.among([]) == []


def test_what_a_row_is_in_its_source() -> None:
    shard = Shard(Path("x"), 9, "", 0, "a.parquet", 100)
    assert shard.place(3, None) == "a.parquet, row 103"
    assert shard.place(3, "b.png") == "a.parquet, row 103 (b.png)"
    assert Shard(Path("x"), 9, "", 0).place(3, "b.png") == "b.png"


def test_the_splits_that_each_source_gives(tmp_path: Path) -> None:
    assert listed(tmp_path, *(table("a") for _ in range(4))).source_splits() == {0: ["test"], 1: []}


def test_a_shard_is_the_file_that_is_listed(tmp_path: Path) -> None:
    (shard,) = listed(tmp_path, table("a"))
    shard.verify()
    shards.write(shard.path, iter([table("b")]))
    with pytest.raises(
        CorruptData,
        match=r"^shard-00000\.parquet is not what dataset\.json lists; run `dvc repro --f",
    ):
        shard.verify()
    shard.path.unlink()
    with pytest.raises(CorruptData, match="is not what"):
        shard.verify()


@pytest.mark.parametrize("name", ["../a.parquet", "/a.parquet", "deep/a.parquet"])
def test_a_listing_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    listed(tmp_path, table("a"))
    listing = tmp_path / shards.DATASET
    listing.write_text(listing.read_text().replace("shard-00000.parquet", name))
    with pytest.raises(CorruptData, match=rf"names {name}, which is not beside it"):
        Shards.open(tmp_path)


@pytest.mark.parametrize("text", [None, "", "{"])
def test_a_listing_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / shards.DATASET).write_text(text)
    with pytest.raises(
        CorruptData, match=r"dataset\.json cannot be read: .*; run `dvc repro ingest`"
    ):
        Shards.open(tmp_path)


def test_small_batches_share_a_row_group_and_large_ones_do_not(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    count = parquet.ROWS // 4
    assert shards.write(path, (table(*map(str, range(count))) for _ in range(10))) == count * 10
    groups = pq.read_metadata(path)
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [
        count * 4,
        count * 4,
        count * 2,
    ]
    large = pa.table({"row_id": ["a"], "image": [bytes(parquet.BATCH_BYTES // 2)]})
    shards.write(path, iter([large] * 5))
    groups = pq.read_metadata(path)
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [2, 2, 1]


def test_every_page_of_a_shard_has_a_checksum(tmp_path: Path) -> None:
    """Without them a flipped bit in the values would be read as other values."""
    path = tmp_path / "a.parquet"
    values = [float(n) for n in range(1000)]
    shards.write(path, iter([table(*map(str, range(1000)), **{"feature:x": values})]))
    whole = path.read_bytes()
    column = pq.read_metadata(path).row_group(0).column(2)
    at = (
        (column.dictionary_page_offset or column.data_page_offset)
        + column.total_compressed_size
        - 8
    )
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(
        CorruptData, match=r"^a\.parquet is cut or damaged: .*; restore the file, then try again"
    ):
        list(parquet.batches(path, ["feature:x"]))


def test_what_decides_on_splits_leaves_out_the_bad_rows_of_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ID_ROWS", 2)
    first = table(*"abcdefg", split=["train", "test", None, "train", "test", None, "val"])
    bad = {"shard-00000.parquet": np.array([1, 4, 6]), "shard-00001.parquet": np.array([0])}
    parts = list(listed(tmp_path, first, table("x", "y", "z")).strata(bad))
    assert ["".join(part.row_ids) for part in parts] == ["a", "cd", "f", "", "y", "z"]
    assert [part.splits for part in parts] == [["train"], [None, "train"], [None], [], None, None]
    assert [label for part in parts for label in part.labels] == [
        f"label {name}" for name in "acdfyz"
    ]
    assert {tuple(part.source_splits) for part in parts} == {()}


def test_text_is_kept_once_and_images_are_not_compressed_again(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {"keep:site": ["n"] * 50, "image": [bytes(1000)] * 50, "feature:x": [1.0] * 50}
    shards.write(path, iter([table(*["a"] * 50, **columns)]))
    group = pq.read_metadata(path).row_group(0)
    facts = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    dictionaries = {name for name, column in facts.items() if column.has_dictionary_page}
    assert dictionaries == {"label", "keep:site"}
    assert {name for name, column in facts.items() if column.compression != "ZSTD"} == {"image"}
