"""The stage: float32, the accuracy of a plain test loop, and the same bytes every time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ratchet.errors import CorruptModel, DataError
from ratchet.models.card import load_model
from tasks.evaluate import evaluate
from tests.helpers.learning_samples import Trainer, chosen

pytest_plugins = ["tests.helpers.learning_fixtures"]


@pytest.fixture
def scored(pictured: Path, trained: Trainer) -> Path:
    trained(pictured)
    evaluate.fn(chosen(), pictured)
    return pictured


def test_it_counts_as_a_plain_loop_does(scored: Path) -> None:
    model, card = load_model(scored / "models/classifier.json", scored / "models/classifier.pt")
    inputs, targets = (
        torch.from_numpy(np.load(scored / f"data/prepared/test/{n}.npy"))
        for n in ("inputs", "targets")
    )
    with torch.no_grad():
        found = model((inputs / 255 - card.spec["mean"][0]) / card.spec["std"][0])
    metrics = json.loads((scored / "reports/metrics.json").read_text())
    assert metrics["rows"] == len(targets)
    assert metrics["accuracy"] == round((found.argmax(1) == targets).double().mean().item(), 6)
    assert metrics["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(found, targets).item(), abs=1e-5
    )
    rows = pq.read_table(scored / "reports/predictions.parquet", page_checksum_verification=True)
    assert rows.column_names == ["row_id", "target", "prediction", "probabilities"]
    assert rows["target"].to_pylist() == targets.tolist()
    assert sum(metrics["per_class"][name]["support"] for name in card.classes) == len(targets)
    with Image.open(scored / "reports/plots/confusion.png") as picture:
        assert picture.size == (110 + 40 * len(card.classes),) * 2


def test_two_trees_get_the_same_bytes(scored: Path, tmp_path: Path) -> None:
    def reports(pictured: Path) -> dict[str, bytes]:
        return {
            str(file.relative_to(pictured)): file.read_bytes()
            for file in (pictured / "reports").rglob("*")
            if file.is_file()
        }

    other = shutil.copytree(
        scored, tmp_path / "somewhere/else", ignore=shutil.ignore_patterns("metrics.json", "plots")
    )
    evaluate.fn(chosen(), other)
    assert reports(other) == reports(scored)


def test_slices_are_scored_apart(scored: Path) -> None:
    file = scored / "data/prepared/test/meta.parquet"
    meta = pq.read_table(file)
    pq.write_table(meta.append_column("keep:shop", [["north", None] * (len(meta) // 2)]), file)
    evaluate.fn(chosen(evaluate__slices=["shop"], ingest__keep=["shop"]), scored)
    found = json.loads((scored / "reports/metrics.json").read_text())["slices"]["shop"]
    assert {name: values["rows"] for name, values in found.items()} == {"north": 25, "missing": 25}
    assert "keep:shop" in pq.read_schema(scored / "reports/predictions.parquet").names
    assert '<th scope="row">north' in (scored / "reports/report.html").read_text()


def test_a_slice_that_is_not_there_is_named(scored: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"evaluate\.slices: the test rows have no column shop; choose among the columns that ingest\.keep names: none",
    ):
        evaluate.fn(chosen(evaluate__slices=["shop"], ingest__keep=["shop"]), scored)


def test_weights_that_are_not_the_cards_are_not_loaded(scored: Path) -> None:
    weights = scored / "models/classifier.pt"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(CorruptModel, match=r"classifier\.pt was not loaded: its SHA-256"):
        evaluate.fn(chosen(), scored)


def test_a_model_of_other_data_is_refused(scored: Path) -> None:
    spec = scored / "data/prepared/spec.json"
    spec.write_text(spec.read_text() + "\n")
    with pytest.raises(
        CorruptModel, match=r"another data/prepared/spec\.json; run `dvc repro train`"
    ):
        evaluate.fn(chosen(), scored)


def test_no_test_rows_is_an_error(scored: Path) -> None:
    for name, dtype in (("inputs", np.uint8), ("targets", np.int64)):
        file = scored / f"data/prepared/test/{name}.npy"
        np.save(file, np.load(file)[:0].astype(dtype))
    with pytest.raises(DataError, match="test has no rows"):
        evaluate.fn(chosen(), scored)
