"""Score the trained model on the test rows, in float32.

Reads `models/`, `data/prepared/test` and the learning curves in `reports/training/`.
Writes `reports/metrics.json`, `reports/predictions.parquet`, `reports/plots/` and
`reports/report.html`.
Params: `evaluate`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.columns import KEEP, own, prefixed
from ratchet.dataset.prepared import open_inputs
from ratchet.errors import CorruptModel, DataError
from ratchet.evaluation import metrics, plots, report
from ratchet.files import sha256, write_json, writing
from ratchet.models.card import load_model
from ratchet.models.inference import probabilities
from ratchet.params import Params
from ratchet.stage import stage

PREPARED = Path("data/prepared")


@stage
def evaluate(params: Params, tree: Path) -> None:
    """Evaluate in `tree`.

    Args:
        params: all params; `evaluate` is used.
        tree: the checkout to work in.

    Raises:
        CorruptModel: the model's files are damaged, or it was trained on other data.
        DataError: there are no test rows, or the column of a slice is missing.
    """
    test = tree / PREPARED / "test"
    model, card = load_model(tree / "models/classifier.json", tree / "models/classifier.pt")
    if card.spec_sha256 != sha256(tree / PREPARED / "spec.json"):
        raise CorruptModel(
            "models/classifier.json: the model was trained with another data/prepared/spec.json; "
            "run `dvc repro train`"
        )
    inputs, targets = open_inputs(test), np.load(test / "targets.npy")
    if not len(targets):
        raise DataError(f"{PREPARED}/test has no rows; raise prepare.test_fraction")
    began = time.monotonic()
    shares = probabilities(model, card, inputs, params.evaluate.batch_size)
    rate = len(targets) / (time.monotonic() - began)
    meta = _meta(test / "meta.parquet", params.evaluate.slices)
    slices = {name: meta[KEEP + name].to_pylist() for name in params.evaluate.slices}
    figures = metrics.summary(
        targets, shares, card.classes, slices=slices, resamples=params.evaluate.resamples
    )
    _write_predictions(tree / "reports/predictions.parquet", meta, targets, shares)
    plots.write(tree / "reports/plots", targets, shares, figures)
    curves, page = tree / "reports/training/curves.tsv", tree / "reports/report.html"
    report.write(page, figures, card, inputs, targets, shares, params.evaluate.worst, curves)
    write_json(tree / "reports/metrics.json", figures)
    quality = f"accuracy {figures['accuracy']:.4f}, loss {figures['loss']:.4f}"
    print(f"evaluate: {len(targets):,} rows, {quality}, {rate:,.0f} rows/s", flush=True)


def _meta(path: Path, slices: Sequence[str]) -> pa.Table:
    """Read the `row_id` and the slice columns of the test rows."""
    columns = pq.read_schema(path).names
    missing = [name for name in slices if KEEP + name not in columns]
    if missing:
        available = ", ".join(own(name) for name in columns if name != "row_id") or "none"
        raise DataError(
            f"evaluate.slices: the test rows have no column {', '.join(missing)}; "
            f"choose among the columns that ingest.keep names: {available}"
        )
    return pq.read_table(path, columns=["row_id", *prefixed(KEEP, slices)])


def _write_predictions(path: Path, meta: pa.Table, targets: np.ndarray, shares: np.ndarray) -> None:
    """Write a row per test row: `row_id`, target, prediction, probabilities, slice columns."""
    width = shares.shape[1]
    offsets = pa.array(np.arange(0, shares.size + 1, width, dtype=np.int32))
    table = pa.table(
        {
            "row_id": meta["row_id"],
            "target": targets,
            "prediction": shares.argmax(1),
            "probabilities": pa.ListArray.from_arrays(offsets, pa.array(shares.ravel())),
            **{column: meta[column] for column in meta.column_names[1:]},
        }
    )
    with writing(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


if __name__ == "__main__":
    evaluate.main()
