"""Parquet files of others, read without trust."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.errors import CorruptData
from ratchet.files import sha256
from ratchet.shards import parquet, shards
from ratchet.sources.base import image_table
from tests.helpers.data_samples import pictures


def rows(path):
    return pa.concat_tables(parquet.batches(path)).num_rows


@pytest.mark.fault(11)
def test_no_flipped_bit_of_a_shard_passes(tmp_path):
    """200 of them, the SHA-256 in dataset.json left aside: page checksums and the file's own structure alone."""
    path = tmp_path / "shard.parquet"
    images = pictures(50)
    table = image_table(
        images,
        pa.array([row % 3 for row in range(50)]),
        row_id=[f"{row:032x}" for row in range(50)],
    )
    shards.write(path, iter([table]))
    whole, digest = path.read_bytes(), sha256(path)
    silent = []
    for seed in range(200):
        flipped = bytearray(whole)
        at = random.Random(seed).randrange(len(whole) * 8)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            read = pa.concat_tables(parquet.batches(path))
            if not read.equals(table.combine_chunks()):
                silent.append(at // 8)
        except (CorruptData, KeyError, UnicodeDecodeError):
            pass
        assert sha256(path) != digest
    assert not silent


@pytest.mark.fault(12)
def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(image_table(pictures(20), pa.array([0] * 20)), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptData, match=r"a.parquet is cut or damaged: "):
            rows(path)


@pytest.mark.fault(13)
def test_a_file_that_grows_a_thousandfold_is_refused(tmp_path):
    plain, folded = tmp_path / "plain.parquet", tmp_path / "folded.parquet"
    zeros = pa.array([bytes(300_000_000)])
    pq.write_table(
        pa.table({"image": zeros}),
        plain,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
    )
    with pytest.raises(
        CorruptData, match=r"plain.parquet: .* bytes of its columns would grow to 300,000,\d+; such"
    ):
        rows(plain)
    same = pa.DictionaryArray.from_arrays(
        pa.array([0] * 1000, pa.int32()), pa.array([bytes(300_000)])
    )
    pq.write_table(pa.table({"image": same}), folded)
    with pytest.raises(CorruptData, match=r"folded.parquet: .* of image would grow to 300,000,000"):
        rows(folded)


def test_large_rows_come_a_few_at_a_time(tmp_path):
    path = tmp_path / "a.parquet"
    large = [random.Random(row).randbytes(1_000_000) for row in range(40)]
    pq.write_table(pa.table({"image": large}), path)
    sizes = [table.num_rows for table in parquet.batches(path)]
    assert sum(sizes) == 40 and max(sizes) <= 17
