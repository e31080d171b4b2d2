"""Every row checked, the bad ones set aside."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from tasks.errors import CorruptData, ValidationFailed
from tasks.ingest import ingest
from tasks.refresh import refresh
from tasks.validate import validate
from tests.data.samples import image_file, pictures

pytest_plugins = ["tests.data.fixtures"]


@pytest.fixture
def ingested(configured, parquet, tree):
    """Ingest image rows and return the params, with a quarantine as large as the data."""

    def make(images, labels, **columns):
        params = configured(parquet(), validate={"max_bad_fraction": 1.0})
        image_file(tree / "data/incoming/a.parquet", images, labels, **columns)
        refresh.fn(params, tree)
        ingest.fn(params, tree)
        return params

    return make


def bad(tree):
    rows = pq.read_table(tree / "data/quarantine.parquet").to_pylist()
    return [(row["row"], row["reason"]) for row in rows]


def test_real_images_pass(sample, tree):
    refresh.fn(sample, tree)
    ingest.fn(sample, tree)
    validate.fn(sample, tree)
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["rows"] == {"in": 600, "out": 600, "quarantined": 0}
    assert (
        report["classes"]["test"]["Shirt"] == 20 and report["sizes"] == {"28x28": 600} and report["modes"] == {"L": 600}
    )
    html = (tree / "reports/validation.html").read_text()
    assert "600 rows came in" in html and "http" not in html


def test_14_labels_that_are_missing_or_no_class(ingested, tree):
    params = ingested(pictures(4), [0, None, -1, 1])
    validate.fn(params, tree)
    assert bad(tree) == [(1, "label_null"), (2, "label_unknown")]


def test_12_cut_images_are_set_aside_with_their_row(ingested, tree):
    whole = pictures(3)
    params = ingested([whole[0], whole[1][:60], b"", None, whole[2], b"GIF89a"], [0] * 6)
    validate.fn(params, tree)
    assert bad(tree) == [(1, "image_corrupt"), (2, "image_empty"), (3, "image_null"), (5, "image_corrupt")]
    html = (tree / "reports/validation.html").read_text()
    assert "an image that does not decode to its end" in html


def test_17_the_same_image_twice(ingested, tree):
    a, b, c, d = pictures(4)
    params = ingested(
        [a, a, b, b, c, c, d],
        [0, 0, 1, 1, 0, 1, 1],
        split=["train", "train", "train", "test", "train", "test", "train"],
    )
    validate.fn(params, tree)
    assert bad(tree) == [(1, "duplicate"), (2, "leak"), (4, "conflict"), (5, "conflict")]
    (first, *_) = pq.read_table(tree / "data/quarantine.parquet").to_pylist()
    assert first["detail"] == "like shard-00000.parquet row 0" and first["shard"] == "shard-00000.parquet"


def test_too_many_bad_rows_fail_and_the_reports_stand(ingested, configured, parquet, tree):
    ingested(pictures(3), [0, None, None])
    with pytest.raises(
        ValidationFailed, match=r"2 of 3 rows are bad, most of them label_null.*max_bad_fraction is 0.05"
    ):
        validate.fn(configured(parquet()), tree)
    assert (tree / "reports/validation.json").exists() and len(bad(tree)) == 2


def test_11_a_flipped_bit_in_a_shard_is_found(ingested, tree):
    params = ingested(pictures(3), [0, 1, 2])
    shard = tree / "data/raw/shard-00000.parquet"
    flipped = bytearray(shard.read_bytes())
    flipped[200] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(CorruptData, match=r"shard-00000.parquet is not what dataset.json lists"):
        validate.fn(params, tree)
