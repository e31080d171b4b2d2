"""Score new rows with the version in service: one row out for each row in, with the reason where one is bad.

Reads a parquet file, a folder or glob of parquet files, a folder of images, or a data set of the Hub; writes one parquet file
with `row`, `path` (of an image that is a file), `prediction`, `probabilities` (float32, in the order of the version's classes)
and `reason` (null for a good row). Rows are checked as `validate` checks them, by the rules in the version's own params.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.stage import step

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.data.arrivals import Arrivals, Checks
    from tasks.learning.card import Card
    from tasks.versions.registry import Version

BATCH = 1024  # rows that the model answers at a time


@dataclass(frozen=True)
class Scored:
    """What a prediction came to."""

    version: str
    environment: str
    rows: int
    bad: int  # rows of those that could not be scored
    output: str


@step("compute")
def predict(tree: Path, source: str, environment: str, output: Path) -> Scored:
    """Score every row of `source` with what serves in `environment`; memory does not grow with the rows.

    Raises:
        SourceMissing: there is nothing at `source`.
        CorruptData: a file there is no whole parquet, or lacks the columns that the version needs.
        Unreachable: the Hub does not answer.
        VersionError: nothing serves in `environment`.
    """
    import pyarrow.parquet as pq

    from tasks.data import arrivals
    from tasks.data.files import writing
    from tasks.versions import loading
    from tasks.versions.registry import Registry

    version = Registry(tree).find(environment)  # once: a rollback meanwhile must not mix two versions
    checks = _checks(tree, version)
    model, card = loading.built(tree, version)
    rows = bad = 0
    found = arrivals.read(tree, source, card.parsed_spec())
    with writing(output) as temporary, pq.ParquetWriter(temporary, _schema(), write_page_checksum=True) as writer:
        for some in found:
            scored = _score(model, card, some, checks, rows)
            writer.write_table(scored)
            rows += scored.num_rows
            bad += scored.num_rows - scored["reason"].null_count
    return Scored(version.name, environment, rows, bad, str(output))


def _checks(tree: Path, version: Version) -> Checks:
    """The rules by which the version's own data were validated."""
    from pydantic import TypeAdapter

    from tasks.data.arrivals import Checks
    from tasks.params import Rules
    from tasks.versions import pipeline

    held = pipeline.of_commit(tree, version.commit).params
    knobs = next(sections["validate"] for sections in held.values() if "validate" in sections)
    return Checks(int(knobs["max_pixels"]), TypeAdapter(dict[str, Rules]).validate_python(knobs["columns"]))


def _schema() -> pa.Schema:
    import pyarrow as pa

    columns = {"row": pa.int64(), "path": pa.string(), "prediction": pa.string()}
    return pa.schema({**columns, "probabilities": pa.list_(pa.float32()), "reason": pa.string()})


def _score(model: Any, card: Card, some: Arrivals, checks: Checks, first: int) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from tasks.data import arrivals
    from tasks.learning.predict import probabilities

    classes = pa.array(card.classes, pa.string())
    inputs, reasons = arrivals.checked(some, card.parsed_spec(), checks)
    good = np.array([reason is None for reason in reasons], bool)
    found = probabilities(model, card, inputs[good], BATCH)
    finite = np.isfinite(found).all(axis=1)
    for row in np.flatnonzero(good)[~finite]:
        reasons[row], good[row] = "not_finite: the model gives probabilities that are no numbers", False
    found = found[finite]
    best = np.zeros(len(good), np.int64)
    best[good] = found.argmax(axis=1)
    offsets = np.append(0, np.cumsum(good * len(classes))).astype(np.int32)
    columns = {
        "row": np.arange(first, first + len(good)),
        "path": some.paths,
        "prediction": classes.take(pa.array(best, mask=~good)),
        "probabilities": pa.ListArray.from_arrays(offsets, found.ravel(), mask=pa.array(~good)),
        "reason": reasons,
    }
    return pa.table(columns, schema=_schema())
