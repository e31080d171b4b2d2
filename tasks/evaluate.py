"""Score the trained model on the test rows, in float32.

Reads `models/`, `data/prepared/test` and the curves in `reports/training/`; writes
`reports/metrics.json`, `reports/predictions.parquet`, `reports/plots/` and `reports/report.html`.
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

    Raises:
        CorruptModel: the model's files are not whole, or it was trained on other data than those
        prepared.
        DataError: there are no test rows, or no column of a slice.
    """
    test = tree / PREPARED / "test"
    model, card = load_model(tree / "models/classifier.json", tree / "models/classifier.pt")
    if card.spec_sha256 != sha256(tree / PREPARED / "spec.json"):
        raise CorruptModel(
            "models/classifier.json: trained for another data/prepared/spec.json; run `dvc repro"
            " train`"
        )
    inputs, targets = open_inputs(test), np.load(test / "targets.npy")
    if not len(targets):
        raise DataError(f"{PREPARED}/test has no rows; raise prepare.test_fraction")
    began = time.monotonic()
    given = probabilities(model, card, inputs, params.evaluate.batch_size)
    rate = len(targets) / (time.monotonic() - began)
    meta = _meta(test / "meta.parquet", params.evaluate.slices)
    slices = {name: meta[KEEP + name].to_pylist() for name in params.evaluate.slices}
    found = metrics.summary(
        targets, given, card.classes, slices=slices, resamples=params.evaluate.resamples
    )
    _write_predictions(tree / "reports/predictions.parquet", meta, targets, given)
    plots.write(tree / "reports/plots", targets, given, found)
    curves = tree / "reports/training/curves.tsv"
    report.write(
        tree / "reports/report.html",
        found,
        card,
        inputs,
        targets,
        given,
        params.evaluate.worst,
        curves,
    )
    write_json(tree / "reports/metrics.json", found)
    print(
        f"evaluate: {len(targets):,} rows, accuracy {found['accuracy']:.4f}, loss"
        f" {found['loss']:.4f}, {rate:,.0f} rows/s",
        flush=True,
    )


def _meta(path: Path, slices: Sequence[str]) -> pa.Table:
    """The `row_id` and slice columns of the test rows."""
    there = pq.read_schema(path).names
    missing = [name for name in slices if KEEP + name not in there]
    if missing:
        has = ", ".join(own(name) for name in there if name != "row_id") or "none"
        raise DataError(
            f"evaluate.slices: the test rows have no column {', '.join(missing)}; ingest.keep"
            f" carried along: {has}"
        )
    return pq.read_table(path, columns=["row_id", *prefixed(KEEP, slices)])


def _write_predictions(path: Path, meta: pa.Table, targets: np.ndarray, given: np.ndarray) -> None:
    width = given.shape[1]
    offsets = pa.array(np.arange(0, given.size + 1, width, dtype=np.int32))
    table = pa.table(
        {
            "row_id": meta["row_id"],
            "target": targets,
            "prediction": given.argmax(1),
            "probabilities": pa.ListArray.from_arrays(offsets, pa.array(given.ravel())),
            **{column: meta[column] for column in meta.column_names[1:]},
        }
    )
    with writing(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


if __name__ == "__main__":
    evaluate.main()
