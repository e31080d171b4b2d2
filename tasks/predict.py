"""Score rows with the version in service.

Each input row gives one output row, and a bad row has a reason instead of a prediction.

`predict` scores all rows into one file. `predict_new` scores the rows that the version has not
scored yet. The files in its output folder are the record, so no row is lost or scored twice,
whenever a run is killed. ratchet/prediction/output.py lists the columns.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.errors import ParamsError, SourceMissing
from ratchet.locks import locked
from ratchet.stage import step

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from ratchet.dataset.spec import Spec
    from ratchet.models.card import Card
    from ratchet.prediction.unlabeled import Format, Input
    from ratchet.prediction.unlabeled_rows import Arrivals, Checks
    from ratchet.registry.records import Version

BATCH = 1024  # rows that the model scores at a time
SUFFIXES = (".parquet", ".csv")
_RowCounts = Counter[tuple[str, str]]  # number of rows per path and row_id


@dataclass(frozen=True)
class Scored:
    """The result of a prediction."""

    version: str
    environment: str
    rows: int  # rows in the output
    bad: int  # rows in the output with a reason instead of a prediction
    output: str  # the file; "" if there were no new rows
    known: int = 0  # rows that the version had scored before
    skipped: str = ""  # a description of the skipped files

    def __str__(self) -> str:
        text = f"{self.rows} rows ({self.bad} bad) scored by {self.version} into {self.output}"
        if not self.output:
            text = f"no new rows for {self.version}"
        earlier = f"{self.known} scored before" if self.known else ""
        return "; ".join(part for part in (text, earlier, self.skipped) if part)


@step("compute")
def predict(tree: Path, source: str, environment: str, output: Path) -> Scored:
    """Score every row of `source` with the version in `environment`.

    Memory use does not depend on the number of rows.

    Args:
        tree: the checkout.
        source: a file, folder or glob, relative to `tree`, or the address of a data set of the Hub.
        environment: the environment whose version scores the rows.
        output: the file to write, .parquet or .csv.

    Raises:
        ParamsError: `output` is neither a parquet nor a CSV file, or is part of the input.
        SourceMissing: there is nothing at `source` that the version can use.
        CorruptData: a file is damaged or lacks a column that the version needs.
        Unreachable: the Hub does not respond.
        VersionError: no version serves in `environment`.
    """
    if output.suffix not in SUFFIXES:
        raise ParamsError(
            f"the output {output} must end in .parquet or .csv, such as "
            f"{output.with_suffix('.parquet')}"
        )
    place = (tree / source).resolve()
    if place == output.resolve() or (place.is_dir() and output.resolve().is_relative_to(place)):
        raise ParamsError(
            f"the output {output} is part of the input {source}; write it somewhere else"
        )
    scorer = _Scorer.of(tree, environment)
    unlabeled = scorer.find(tree, source)
    if unlabeled.paths is not None and not unlabeled.paths:
        raise scorer.no_rows(source, unlabeled)
    return scorer.write(unlabeled, output, Counter(), always=True)


@step("compute")
def predict_new(tree: Path, source: str, environment: str, folder: Path) -> Scored:
    """Score the rows of `source` that `folder` does not have from the version in `environment`.

    The file and the content (`row_id`) identify a row. Rows with the same content in one file are
    counted.

    Args:
        tree: the checkout.
        source: as in `predict`.
        environment: the environment whose version scores the rows.
        folder: the earlier outputs; a new parquet file is added.

    Raises:
        Busy: another run scores into `folder`.
        CorruptData: a file of the input or in `folder` is damaged.
        SourceMissing, Unreachable, VersionError: as in `predict`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"the folder {folder}"):
        scorer = _Scorer.of(tree, environment)
        unlabeled = scorer.find(tree, source)
        earlier = _earlier_rows(folder, scorer.version.name, unlabeled.paths)
        return scorer.write(unlabeled, _new_file(folder), earlier, always=False)


def _new_file(folder: Path) -> Path:
    """Name a new file in `folder` after the current time."""
    moment = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    file, number = folder / f"{moment}.parquet", 1
    while file.exists():
        number += 1
        file = folder / f"{moment}-{number}.parquet"
    return file


def _earlier_rows(folder: Path, version: str, paths: frozenset[str] | None) -> _RowCounts:
    """Count the rows in the outputs of `folder` that the version scored.

    Args:
        folder: the outputs.
        version: the name of the version.
        paths: the files of the input, whose rows count; None for all.

    Raises:
        CorruptData: an output is damaged.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from ratchet.shards.parquet import corrupt_if

    counts: _RowCounts = Counter()
    columns = ["version", "path", "row_id"]
    for file in sorted(folder.glob("*.parquet")):
        with corrupt_if(file), pq.ParquetFile(file) as output:
            if not {*columns} <= {*output.schema_arrow.names}:
                continue  # the file of another program, or of a Ratchet that did not record rows
            for batch in output.iter_batches(columns=columns):
                batch = batch.filter(pc.equal(batch["version"], version))
                pairs = zip(batch["path"].to_pylist(), batch["row_id"].to_pylist(), strict=True)
                counts.update(pair for pair in pairs if paths is None or pair[0] in paths)
    return counts


@dataclass(frozen=True)
class _Scorer:
    """A version, loaded once, with the rules and formats of its own params."""

    version: Version
    environment: str
    model: nn.Module
    card: Card
    spec: Spec
    checks: Checks
    formats: list[Format]

    @classmethod
    def of(cls, tree: Path, environment: str) -> _Scorer:
        """Load the version in `environment`.

        The version is looked up only once, so that a rollback in the meantime cannot mix two
        versions.
        """
        from ratchet.prediction import version_params
        from ratchet.registry import loading
        from ratchet.registry.versions import Registry
        from ratchet.store import pipeline

        version = Registry(tree).find(environment)
        model, card = loading.built(tree, version)
        sections: dict[str, Any] = {}
        for section in pipeline.of_commit(tree, version.commit).params.values():
            sections |= section
        checks = version_params.checks(version.name, sections.get("validate", {}))
        formats = version_params.formats(sections.get("ingest", {}))
        return cls(version, environment, model, card, card.parsed_spec(), checks, formats)

    def find(self, tree: Path, source: str) -> Input:
        """Find the rows at `source`."""
        from ratchet.prediction import unlabeled

        return unlabeled.find(tree, source, self.spec, self.formats)

    def no_rows(self, source: str, unlabeled: Input) -> SourceMissing:
        """Explain that the version can use no file of the input."""
        from ratchet.prediction.input_files import describe_skipped, requirement

        skipped = describe_skipped(unlabeled.skipped) or "the folder is empty"
        return SourceMissing(
            f"{source} has no rows for {self.version.name}: {skipped}; {requirement(self.spec)}"
        )

    def write(self, unlabeled: Input, output: Path, earlier: _RowCounts, always: bool) -> Scored:
        """Score the rows into `output`, except those in `earlier`.

        Without any rows, the file is written only if `always`.
        """
        from ratchet.prediction.input_files import describe_skipped
        from ratchet.prediction.output import writer

        rows = bad = 0
        new = _NewRows(earlier)
        tables = (self._score(part) for part in map(new.of, unlabeled.batches()) if part.ids)
        first = next(tables, None)
        file = str(output) if first is not None or always else ""
        if file:
            with writer(output, self.card.classes) as write:
                for table in itertools.chain([first] if first is not None else [], tables):
                    write(table)
                    rows += table.num_rows
                    bad += table.num_rows - table["reason"].null_count
        skipped = describe_skipped(unlabeled.skipped)
        name, environment = self.version.name, self.environment
        return Scored(name, environment, rows, bad, file, new.skipped, skipped)

    def _score(self, unlabeled: Arrivals) -> pa.Table:
        """Score some rows; return a table with the columns of the output."""
        import numpy as np
        import pyarrow as pa

        from ratchet.models.inference import probabilities
        from ratchet.prediction import unlabeled_rows
        from ratchet.prediction.output import SCHEMA

        classes = pa.array(self.card.classes, pa.string())
        inputs, reasons = unlabeled_rows.checked(unlabeled, self.spec, self.checks)
        good = np.array([reason is None for reason in reasons], bool)
        scores = probabilities(self.model, self.card, inputs[good], BATCH)  # (good rows, classes)
        finite = np.isfinite(scores).all(axis=1)
        for row in np.flatnonzero(good)[~finite]:
            good[row] = False
            reasons[row] = "not_finite: the model's probabilities are not finite numbers"
        scores = scores[finite]
        best = np.zeros(len(good), np.int64)
        best[good] = scores.argmax(axis=1)
        offsets = np.append(0, np.cumsum(good * len(classes))).astype(np.int32)
        lists = pa.ListArray.from_arrays(offsets, scores.ravel(), mask=pa.array(~good))
        columns = {
            "path": unlabeled.paths,
            "row": unlabeled.rows,
            "row_id": unlabeled.ids,
            "version": [self.version.name] * len(good),
            "prediction": classes.take(pa.array(best, mask=~good)),
            "probabilities": lists,
            "reason": reasons,
        }
        return pa.table(columns, schema=SCHEMA)


class _NewRows:
    """Select the new rows: a row is skipped as often as it was scored earlier."""

    def __init__(self, earlier: _RowCounts) -> None:
        self._left = earlier
        self.skipped = 0

    def of(self, unlabeled: Arrivals) -> Arrivals:
        """Return the new rows of a batch."""
        if not self._left:
            return unlabeled
        places = []
        for place, row in enumerate(zip(unlabeled.paths, unlabeled.ids, strict=True)):
            if self._left[row]:
                self._left[row] -= 1
                self.skipped += 1
            else:
                places.append(place)
        return unlabeled if len(places) == len(unlabeled.ids) else unlabeled.take(places)
