"""Good rows to arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData, ValidationFailed
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate
from tests.helpers.data_samples import ASSETS, image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]


def run(params, tree):
    refresh.fn(params, tree)
    for stage in (ingest, validate, prepare):
        stage.fn(params, tree)
    return tree / "data" / "prepared"


def test_real_images_become_arrays_that_hold_their_pixels(sample, tree):
    out = run(sample, tree)
    spec = Spec.read(out / "spec.json")
    assert (
        spec.input_shape == (1, 28, 28)
        and spec.classes[9] == "Ankle boot"
        and spec.counts["test"] == 200
    )
    assert spec.counts["train"] + spec.counts["val"] == 400 and 20 <= spec.counts["val"] <= 60
    test = np.load(out / "test/inputs.npy", mmap_mode="r")
    original = (ASSETS / "FashionMNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    assert test.dtype == np.uint8 and test.tobytes() == original
    labels = (ASSETS / "FashionMNIST/raw/t10k-labels-idx1-ubyte").read_bytes()[8:]
    assert np.load(out / "test/targets.npy").tolist() == list(labels)
    train = np.load(out / "train/inputs.npy") / 255
    assert spec.mean[0] == pytest.approx(train.mean()) and spec.std[0] == pytest.approx(train.std())
    assert pq.read_table(out / "val/meta.parquet").num_rows == spec.counts["val"]


def test_more_rows_move_no_row_to_another_split(configured, parquet, tree):
    params = configured(parquet(), prepare={"size": [8, 8]})
    image_file(tree / "data/incoming/a.parquet", pictures(300), [0, 1] * 150)

    def ids():
        out = run(params, tree)
        return {
            split: pq.read_table(out / split / "meta.parquet")["row_id"].to_pylist()
            for split in ("train", "val", "test")
        }

    before = ids()
    assert 15 < len(before["val"]) < 45 and 25 < len(before["test"]) < 70
    image_file(tree / "data/incoming/b.parquet", pictures(100, seed=1), [0, 1] * 50)
    after = ids()
    assert all(set(before[split]) < set(after[split]) for split in before)


def test_features_are_imputed_by_the_mean_of_training(configured, parquet, tree):
    random = np.random.default_rng(0)
    values = random.normal(5, 2, 200).astype(object)
    values[::10] = None
    (tree / "data/incoming").mkdir(parents=True)
    table = pa.table(
        {
            "a": pa.array(values, pa.float64()),
            "b": random.integers(0, 9, 200),
            "label": ["x", "y"] * 100,
        }
    )
    pq.write_table(table, tree / "data/incoming/a.parquet")
    out = run(configured(parquet(image=None, features=["a", "b"])), tree)
    spec = Spec.read(out / "spec.json")
    train = np.load(out / "train/inputs.npy")
    assert spec.features == ("a", "b") and spec.classes == ("x", "y") and train.dtype == np.float32
    missing = train[:, 0] == 0
    assert np.isfinite(train).all() and missing.sum() > 5
    assert 4 < spec.mean[0] < 6 and spec.standardised
    assert abs(train[~missing, 0].mean()) < 1e-6 and train[~missing, 0].std() == pytest.approx(
        1, rel=1e-6
    )


def test_kept_columns_come_along_and_name_no_row(configured, parquet, tree):
    (tree / "data/incoming").mkdir(parents=True)
    table = pa.table(
        {
            "x": [float(row) for row in range(60)],
            "site": [row % 3 for row in range(60)],
            "label": ["a", "b"] * 30,
        }
    )
    pq.write_table(table, tree / "data/incoming/a.parquet")
    out = run(configured(parquet(image=None, features=["x"]), ingest={"keep": ["site"]}), tree)
    assert Spec.read(out / "spec.json").features == ("x",)
    kept = pq.read_table(out / "train/meta.parquet")
    rows = pq.read_table(tree / "data/raw/shard-00000.parquet").to_pylist()
    site = {row["row_id"]: row["keep:site"] for row in rows}
    assert kept["keep:site"].to_pylist() == [site[row] for row in kept["row_id"].to_pylist()]
    before = list(site)
    run(configured(parquet(image=None, features=["x"])), tree)
    assert pq.read_table(tree / "data/raw/shard-00000.parquet")["row_id"].to_pylist() == before
    with pytest.raises(CorruptData, match=r"a.parquet has no column town; it has label, site, x"):
        run(configured(parquet(image=None, features=["x"]), ingest={"keep": ["town"]}), tree)


def test_a_class_that_training_never_sees_is_named(configured, parquet, tree):
    params = configured(parquet(split="split"), prepare={"size": [8, 8], "val_fraction": 0.0})
    labels, split = ["cat", "dog", "newt", "cat"], ["train", "train", "test", "test"]
    image_file(tree / "data/incoming/a.parquet", pictures(4), labels, split=split)
    with pytest.raises(
        ValidationFailed,
        match=r"class newt is in the source's test split, but has no training row",
    ):
        run(params, tree)
    assert not (tree / "data/prepared").exists()


def test_the_memo_takes_no_more_than_its_limit(configured, parquet, tree):
    image_file(tree / "data/incoming/a.parquet", pictures(20), [0, 1] * 10)
    stages = ("ingest", "validate", "prepare")
    run(configured(parquet(), prepare={"size": [8, 8]}), tree)
    assert [len(list((tree / ".memo" / name).iterdir())) for name in stages] == [1, 1, 1]
    run(configured(parquet(), prepare={"size": [8, 8]}, run={"workers": 1, "memo_bytes": 0}), tree)
    assert [len(list((tree / ".memo" / name).iterdir())) for name in stages] == [0, 0, 0]
    assert (tree / "data/prepared/spec.json").exists()
