"""Score rows with the version in service: each input row gives one output row, a bad one with a reason.

`predict` scores all rows into one file. `predict_new` scores the rows that the version has not
scored yet: the files in its output folder are the record, so nothing is lost or scored twice,
whenever a run is killed.

Output columns: `path` (the row's file, or the address of its data set), `row` (its place there,
from 0), `row_id`, `version`, `prediction`, `probabilities` (float32, in the order of the version's
classes; in CSV one column per class) and `reason` (null for a good row).
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.errors import ParamsError, SourceMissing, VersionError
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

_RULES = ("dtype", "min", "max", "allowed", "nullable")
BATCH = 1024  # rows that the model scores at a time
SUFFIXES = (".parquet", ".csv")
_Scored = Counter[tuple[str, str]]  # path and row_id: how many such rows


@dataclass(frozen=True)
class Scored:
    """The result of a prediction."""

    version: str
    environment: str
    rows: int  # that were scored now
    bad: int  # of those, rows with a reason instead of a prediction
    output: str  # the file; "" where there was nothing new
    known: int = 0  # rows that the version had scored before
    skipped: str = ""  # the files that are not rows, by reason

    def __str__(self) -> str:
        text = f"{self.rows} rows ({self.bad} bad) scored by {self.version} into {self.output}"
        if not self.output:
            text = f"no new rows for {self.version}"
        known = f"{self.known} scored before" if self.known else ""
        return "; ".join(part for part in (text, known, self.skipped) if part)


@step("compute")
def predict(tree: Path, source: str, environment: str, output: Path) -> Scored:
    """Score every row of `source` with the version in `environment`.

    Memory does not grow with the rows.

    Raises:
        ParamsError: `output` is neither a parquet nor a CSV file, or is part of the input.
        SourceMissing: there is nothing at `source` that the version can use.
        CorruptData: a file is damaged or lacks a column that the version needs.
        Unreachable: the Hub does not respond.
        VersionError: no version serves in `environment`.
    """
    if output.suffix not in SUFFIXES:
        raise ParamsError(
            f"the output {output} must end in .parquet or .csv, such as"
            f" {output.with_suffix('.parquet')}"
        )
    place = (tree / source).resolve()
    if place == output.resolve() or (place.is_dir() and output.resolve().is_relative_to(place)):
        raise ParamsError(
            f"the output {output} is part of the input {source}; write it somewhere else"
        )
    scorer = _Scorer.of(tree, environment)
    unlabeled = scorer.find(tree, source)
    if not unlabeled.paths and unlabeled.paths is not None:
        raise scorer.nothing(source, unlabeled)
    return scorer.write(unlabeled, output, Counter(), always=True)


@step("compute")
def predict_new(tree: Path, source: str, environment: str, folder: Path) -> Scored:
    """Score the rows of `source` that the version in `environment` has not scored into `folder` yet.

    A row is known by its file and its content (`row_id`); rows with the same content in one file
    are counted.

    Raises:
        Busy: another run scores into `folder`.
        CorruptData: a file of the input or in `folder` is damaged.
        SourceMissing, Unreachable, VersionError: as `predict`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"the folder {folder}"):
        scorer = _Scorer.of(tree, environment)
        unlabeled = scorer.find(tree, source)
        known = _scored(folder, scorer.version.name, unlabeled.paths)
        return scorer.write(unlabeled, _free(folder), known, always=False)


def _free(folder: Path) -> Path:
    """The name of a new file, after the time."""
    moment = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    names = (
        f"{moment}{suffix}.parquet" for suffix in ["", *(f"-{number}" for number in range(2, 1000))]
    )
    return next(folder / name for name in names if not (folder / name).exists())


def _scored(folder: Path, version: str, paths: frozenset[str] | None) -> _Scored:
    """The rows in the outputs of `folder` that the version scored, from these files alone."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from ratchet.shards.parquet import corrupt_if

    known: _Scored = Counter()
    columns = ["version", "path", "row_id"]
    for file in sorted(folder.glob("*.parquet")):
        with corrupt_if(file), pq.ParquetFile(file) as output:
            if not {*columns} <= {*output.schema_arrow.names}:
                continue  # a file of another program, or of a Ratchet that did not record rows
            for batch in output.iter_batches(columns=columns):
                batch = batch.filter(pc.equal(batch["version"], version))
                pairs = zip(batch["path"].to_pylist(), batch["row_id"].to_pylist(), strict=True)
                known.update(pair for pair in pairs if paths is None or pair[0] in paths)
    return known


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
        from ratchet.registry import loading
        from ratchet.registry.versions import Registry
        from ratchet.store import pipeline

        version = Registry(tree).find(
            environment
        )  # once: a rollback meanwhile must not mix two versions
        model, card = loading.built(tree, version)
        sections: dict[str, Any] = {}
        for section in pipeline.of_commit(tree, version.commit).params.values():
            sections |= section
        checks = _checks(version.name, sections.get("validate", {}))
        return cls(
            version,
            environment,
            model,
            card,
            card.parsed_spec(),
            checks,
            _formats(sections.get("ingest", {})),
        )

    def find(self, tree: Path, source: str) -> Input:
        from ratchet.prediction import unlabeled

        return unlabeled.find(tree, source, self.spec, self.formats)

    def nothing(self, source: str, unlabeled: Input) -> SourceMissing:
        from ratchet.prediction.unlabeled import described, wanted

        skipped = described(unlabeled.skipped) or "the folder is empty"
        return SourceMissing(
            f"{source} has no rows for {self.version.name}: {skipped}; {wanted(self.spec)}"
        )

    def write(self, unlabeled: Input, output: Path, known: _Scored, always: bool) -> Scored:
        """Score the rows that are not `known` into `output`.

        Without any, the file is written only if `always`.
        """
        from ratchet.prediction.unlabeled import described

        rows = bad = 0
        new = _New(known)
        tables = (self._score(part) for part in map(new.of, unlabeled.batches()) if part.ids)
        first = next(tables, None)
        written = str(output) if first is not None or always else ""
        if written:
            with _writing(output, self.card.classes) as write:
                for table in itertools.chain([first] if first is not None else [], tables):
                    write(table)
                    rows += table.num_rows
                    bad += table.num_rows - table["reason"].null_count
        return Scored(
            self.version.name,
            self.environment,
            rows,
            bad,
            written,
            new.known,
            described(unlabeled.skipped),
        )

    def _score(self, unlabeled: Arrivals) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        from ratchet.models.inference import probabilities
        from ratchet.prediction import unlabeled_rows

        classes = pa.array(self.card.classes, pa.string())
        inputs, reasons = unlabeled_rows.checked(unlabeled, self.spec, self.checks)
        good = np.array([reason is None for reason in reasons], bool)
        scores = probabilities(self.model, self.card, inputs[good], BATCH)  # (good rows, classes)
        finite = np.isfinite(scores).all(axis=1)
        for row in np.flatnonzero(good)[~finite]:
            reasons[row], good[row] = (
                "not_finite: the model's probabilities are not finite numbers",
                False,
            )
        scores = scores[finite]
        best = np.zeros(len(good), np.int64)
        best[good] = scores.argmax(axis=1)
        offsets = np.append(0, np.cumsum(good * len(classes))).astype(np.int32)
        columns = {
            "path": unlabeled.paths,
            "row": unlabeled.rows,
            "row_id": unlabeled.ids,
            "version": [self.version.name] * len(good),
            "prediction": classes.take(pa.array(best, mask=~good)),
            "probabilities": pa.ListArray.from_arrays(
                offsets, scores.ravel(), mask=pa.array(~good)
            ),
            "reason": reasons,
        }
        return pa.table(columns, schema=_schema())


class _New:
    """Passes on the rows that are not known yet, each known one as often as it is known."""

    def __init__(self, known: _Scored) -> None:
        self._left = known
        self.known = 0

    def of(self, unlabeled: Arrivals) -> Arrivals:
        if not self._left:
            return unlabeled
        places = []
        for place, row in enumerate(zip(unlabeled.paths, unlabeled.ids, strict=True)):
            if self._left[row]:
                self._left[row] -= 1
                self.known += 1
            else:
                places.append(place)
        return unlabeled if len(places) == len(unlabeled.ids) else unlabeled.take(places)


def _checks(version: str, validate: Mapping[str, Any]) -> Checks:
    """The rules of a version's own params, which an older or newer Ratchet may have checked and written.

    Raises:
        VersionError: a rule that this Ratchet knows has a value that it does not understand.
    """
    from pydantic import ValidationError

    from ratchet.formats import warn
    from ratchet.images import MAX_PIXELS
    from ratchet.params import Rules
    from ratchet.prediction.unlabeled_rows import Checks

    columns: dict[str, Rules] = {}
    for name, rule in (validate.get("columns") or {}).items():
        where = f"validate.columns.{name} of {version}"
        values = {**dict.fromkeys(_RULES), "nullable": True, **rule}
        if unknown := sorted(key for key in rule if key not in _RULES and rule[key] is not None):
            warn(
                f"{where} has {', '.join(unknown)}, unknown to this Ratchet and not checked;"
                " upgrade Ratchet to check it"
            )
        try:
            columns[name] = Rules(**{key: values[key] for key in _RULES})
        except ValidationError as error:
            problem = error.errors()[0]
            reason = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            raise VersionError(
                f"{where} cannot be understood: {reason}; "
                "predict with the Ratchet that registered the version, or train a new one"
            ) from None
    return Checks(int(validate.get("max_pixels", MAX_PIXELS)), columns)


def _formats(ingest: dict[str, Any]) -> list[Format]:
    """How the version's own sources are written, or the defaults."""
    from ratchet.prediction.unlabeled import Format

    formats = []
    for source in ingest.get("sources", []):
        csv = {
            key: source[key]
            for key in ("separator", "decimal", "encoding")
            if source.get("type") == "csv" and key in source
        }
        formats.append(Format(**csv, image=source.get("image")))
    return list(dict.fromkeys(formats)) or [Format()]


def _schema() -> pa.Schema:
    import pyarrow as pa

    columns = dict.fromkeys(
        ("path", "row", "row_id", "version", "prediction", "probabilities", "reason"), pa.string()
    )
    return pa.schema({**columns, "row": pa.int64(), "probabilities": pa.list_(pa.float32())})


@contextlib.contextmanager
def _writing(output: Path, classes: Sequence[str]) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends rows to `output`, which appears when the block ends well."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    from ratchet.files import writing

    with writing(output) as temporary:
        if output.suffix == ".parquet":
            with pq.ParquetWriter(temporary, _schema(), write_page_checksum=True) as parquet:
                yield parquet.write_table
        else:
            empty = _flat(_schema().empty_table(), classes)
            with pyarrow.csv.CSVWriter(temporary, empty.schema) as csv:
                yield lambda table: csv.write_table(_flat(table, classes))


def _flat(table: pa.Table, classes: Sequence[str]) -> pa.Table:
    """The probabilities as one column per class, `probability:CLASS`."""
    import numpy as np
    import pyarrow as pa

    probabilities = table["probabilities"].combine_chunks()
    good = probabilities.is_valid().to_numpy(zero_copy_only=False)
    values = probabilities.flatten().to_numpy().reshape(-1, len(classes))  # (good rows, classes)
    columns = {name: table[name] for name in table.column_names if name != "probabilities"}
    reason = columns.pop("reason")
    for number, name in enumerate(classes):
        column = np.zeros(len(table), np.float32)
        column[good] = values[:, number]
        columns[f"probability:{name}"] = pa.array(column, mask=~good)
    return pa.table({**columns, "reason": reason})
