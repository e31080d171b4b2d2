"""What a version answers to the test rows of a run: from the raw rows, with the version's own spec."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from ratchet.columns import own
from ratchet.dataset import spec
from ratchet.errors import CorruptModel
from ratchet.gate.statistics import Answers, disagreements
from ratchet.models.card import Card
from ratchet.models.inference import probabilities
from ratchet.registry import loading
from ratchet.registry.records import Version
from ratchet.shards import quarantine, shards, splits
from ratchet.store import pipeline, remote
from ratchet.store.cache import Cache

PREDICTIONS, CARD = "reports/predictions.parquet", "models/classifier.json"
RAW, PREPARED, TRAINED = "data/raw", "data/prepared", "train/meta.parquet"
_OWN = ("row_id", "target", "prediction")  # columns of predictions.parquet that are not slices
_ROWS = 20_000  # held decoded at once


@dataclass(frozen=True)
class Run:
    """The test rows of a run, what is right and what its model said (indices into `classes`), and where its rows lie."""

    row_ids: np.ndarray  # (N,) object
    targets: np.ndarray  # (N,) int64
    said: np.ndarray  # (N,) int64
    sure: np.ndarray  # (N,) float32: the probability that it gave to what it said
    classes: tuple[str, ...]
    contract: dict[str, Any]
    raw: Path
    trained: frozenset[str]  # row_ids that its model was trained on, as far as they are known
    slices: dict[str, np.ndarray]  # per slice column the value of each row, (N,) object


class Compared(NamedTuple):
    """What a champion and a run answered to the same rows."""

    answers: Answers
    rows: np.ndarray  # positions in the run of the rows of `answers`, int64 (n,)
    sure: np.ndarray  # the probability that the champion gave to what it said, float32 (n,)

    @property
    def disagreements(self) -> tuple[int, int]:
        """Rows that only the champion got right, and rows that only the run got right."""
        return disagreements(self.answers)


def of_tree(tree: Path) -> Run:
    """The run that lies in `tree`."""
    file = tree / PREPARED / TRAINED
    return _run(
        tree / PREDICTIONS,
        tree / CARD,
        tree / RAW,
        _row_ids(file) if file.is_file() else frozenset(),
    )


@contextmanager
def of_version(tree: Path, version: Version) -> Iterator[Run]:
    """The run that a version was, from DVC's cache (pulled if it is not there)."""
    held, cache = pipeline.of_commit(tree, version.commit), Cache(tree)
    for path in (PREDICTIONS, CARD):
        remote.pull(tree, held.output(path))
    predictions, card = (cache.path(held.output(path).md5) for path in (PREDICTIONS, CARD))
    with _raw(tree, version) as raw:
        yield _run(predictions, card, raw, trained(tree, version))


@contextmanager
def _raw(tree: Path, version: Version) -> Iterator[Path]:
    """The shards of a version, as links into DVC's cache (pulled if they are not there)."""
    output, cache = pipeline.of_commit(tree, version.commit).output(RAW), Cache(tree)
    remote.pull(tree, output)
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        for name, md5 in cache.listing(output.md5, RAW).items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).symlink_to(cache.path(md5))
        yield Path(folder)


def compared(tree: Path, run: Run, champion: Version, batch_size: int) -> Compared:
    """What both answered to the run's test rows, less those that either was trained on or the champion has no class for.

    Raises:
        ObjectsMissing, CorruptData, CorruptModel: the champion can't be had whole, or gives no
            probabilities.
    """
    model, card = loading.built(tree, champion)
    known = np.isin(np.asarray(run.classes, dtype=object), card.classes)
    seen = run.trained | trained(tree, champion)
    rows = np.flatnonzero(
        known[run.targets] & np.array([row_id not in seen for row_id in run.row_ids], dtype=bool)
    )
    index = {name: position for position, name in enumerate(run.classes)}
    names = np.array([index.get(name, -1) for name in card.classes], dtype=np.int64)
    said, sure = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS):
        at = slice(start, start + _ROWS)
        table = shards.rows(run.raw, run.row_ids[rows[at]].tolist())
        found = _probabilities(champion, model, card, table, batch_size)
        said[at], sure[at] = names[found.argmax(axis=1)], found.max(axis=1)
    return Compared(Answers(run.targets[rows], said, run.said[rows]), rows, sure)


def groups(run: Run, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The slices of a run at some of its rows: "column=value" to which of those rows are in it, bool (len(rows),)."""
    at = {column: values[rows] for column, values in run.slices.items()}
    return {
        f"{column}={value}": values == value
        for column, values in at.items()
        for value in dict.fromkeys(values)
    }


def trained(tree: Path, version: Version) -> frozenset[str]:
    """The rows that a version was trained on.

    Prepared data are never pushed; where they are gone, the split is computed again from the
    version's raw rows and params (for an old version with its quarantined rows, which are in no
    test split either).
    """
    held, cache = pipeline.of_commit(tree, version.commit), Cache(tree)
    prepared = held.output(PREPARED)
    if cache.has(prepared.md5):
        md5 = cache.listing(prepared.md5, PREPARED).get(TRAINED)
        if md5 and cache.has(md5):
            return _row_ids(cache.check(md5, TRAINED))
    settings = next(
        sections["prepare"] for sections in held.params.values() if "prepare" in sections
    )
    fractions = float(settings["val_fraction"]), float(settings["test_fraction"])
    with _raw(tree, version) as raw:
        found = shards.Shards.open(raw)
        dropped = _quarantined(tree, version) if found.format > 1 else {}
        return _split_again(found, dropped, *fractions)


def _quarantined(tree: Path, version: Version) -> dict[str, np.ndarray]:
    """The bad rows of a version, by shard (pulled if they are not here)."""
    output = pipeline.of_commit(tree, version.commit).output(quarantine.FILE)
    remote.pull(tree, output)
    return dict(quarantine.by_shard(Cache(tree).path(output.md5)))


def _split_again(
    raw: shards.Shards, dropped: Mapping[str, np.ndarray], val_fraction: float, test_fraction: float
) -> frozenset[str]:
    """The training rows of `raw`, by the rule that `prepare` splits with.

    Before format 2 no row moved for its class.
    """
    fractions = val_fraction, test_fraction
    moved = splits.to_training(raw.strata(dropped), *fractions) if raw.format > 1 else frozenset()
    trained: set[str] = set()
    for rows in raw.strata(dropped):
        index = splits.splits(rows.row_ids, rows.splits, rows.source_splits, *fractions, moved)
        trained.update(
            row_id for row_id, split in zip(rows.row_ids, index, strict=True) if split == 0
        )
    return frozenset(trained)


def _probabilities(
    champion: Version, model: Any, card: Card, table: Any, batch_size: int
) -> np.ndarray:
    """Of the champion's own classes, float32 (N, classes)."""
    found = probabilities(model, card, spec.inputs(table, card.parsed_spec()), batch_size)
    if not np.isfinite(found).all():
        raise CorruptModel(
            f"{champion.name} gives probabilities that are not finite; `ratchet verify"
            f" {champion.name}`"
        )
    return found


def _run(predictions: Path, card: Path, raw: Path, trained: frozenset[str]) -> Run:
    described = Card.read(card).spec
    names = [name for name in pq.read_schema(predictions).names if name != "probabilities"]
    table = pq.read_table(predictions, columns=names)
    return Run(
        row_ids=np.asarray(table["row_id"].to_pylist(), dtype=object),
        targets=table["target"].to_numpy(),
        said=table["prediction"].to_numpy(),
        sure=_sure(predictions),
        classes=tuple(described["classes"]),
        contract=described,
        raw=raw,
        trained=trained,
        slices={
            own(name): np.asarray(table[name].to_pylist(), dtype=object)
            for name in names
            if name not in _OWN
        },
    )


def _sure(predictions: Path) -> np.ndarray:
    """The greatest of each row's probabilities, float32 (N,)."""
    parts = [np.empty(0, np.float32)]
    with pq.ParquetFile(predictions) as file:
        for batch in file.iter_batches(_ROWS, columns=["probabilities"]):
            values = batch.column(0).flatten().to_numpy()
            parts.append(values.reshape(len(batch), -1).max(axis=1))
    return np.concatenate(parts)


def _row_ids(file: Path) -> frozenset[str]:
    return frozenset(pq.read_table(file, columns=["row_id"])["row_id"].to_pylist())
