"""The answers of a version to the test rows of a run.

A version reads the raw rows, with its own spec.
"""

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
_ROWS = 20_000  # decoded at once


@dataclass(frozen=True)
class Run:
    """The test rows of a run and the answers of its model."""

    row_ids: np.ndarray  # (N,) object
    targets: np.ndarray  # (N,) int64, indices into `classes`
    answers: np.ndarray  # (N,) int64, indices into `classes`
    confidences: np.ndarray  # (N,) float32, the probability of each answer
    classes: tuple[str, ...]
    contract: dict[str, Any]
    raw: Path  # the folder with the shards
    trained: frozenset[str]  # row_ids that its model was trained on, as far as they are known
    slices: dict[str, np.ndarray]  # slice column to the value of each row, (N,) object


class Compared(NamedTuple):
    """The answers of a champion and a run to the same n rows."""

    answers: Answers
    rows: np.ndarray  # positions of these rows in the run, int64 (n,)
    confidences: np.ndarray  # the probability of each answer of the champion, float32 (n,)

    @property
    def disagreements(self) -> tuple[int, int]:
        """The number of rows that only the champion, and that only the run got right."""
        return disagreements(self.answers)


def of_tree(tree: Path) -> Run:
    """The run in `tree`."""
    file = tree / PREPARED / TRAINED
    trained = _row_ids(file) if file.is_file() else frozenset()
    return _run(tree / PREDICTIONS, tree / CARD, tree / RAW, trained)


@contextmanager
def of_version(tree: Path, version: Version) -> Iterator[Run]:
    """The run that made a version, from DVC's cache; pulled if the cache lacks it."""
    predictions = _pulled(tree, version, PREDICTIONS)
    card = _pulled(tree, version, CARD)
    with _raw(tree, version) as raw:
        yield _run(predictions, card, raw, trained(tree, version))


def _pulled(tree: Path, version: Version, path: str) -> Path:
    """A file of a version in DVC's cache; pulled if the cache lacks it."""
    output = pipeline.of_commit(tree, version.commit).output(path)
    remote.pull(tree, output)
    return Cache(tree).path(output.md5)


@contextmanager
def _raw(tree: Path, version: Version) -> Iterator[Path]:
    """The shards of a version, as links into DVC's cache; pulled if the cache lacks them."""
    output, cache = pipeline.of_commit(tree, version.commit).output(RAW), Cache(tree)
    remote.pull(tree, output)
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        for name, md5 in cache.listing(output.md5, RAW).items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).symlink_to(cache.path(md5))
        yield Path(folder)


def compared(tree: Path, run: Run, champion: Version, batch_size: int) -> Compared:
    """The answers of both to the run's test rows.

    Rows that either was trained on, and rows of a class that the champion lacks, are left out.

    Raises:
        ObjectsMissing, CorruptData, CorruptModel: the champion is unavailable or damaged, or its
            probabilities are not finite.
    """
    model, card = loading.built(tree, champion)
    is_known = np.isin(np.asarray(run.classes, dtype=object), card.classes)  # (classes,) bool
    seen = run.trained | trained(tree, champion)
    is_new = np.array([row_id not in seen for row_id in run.row_ids], dtype=bool)  # (N,)
    rows = np.flatnonzero(is_known[run.targets] & is_new)  # (n,)
    positions = {name: position for position, name in enumerate(run.classes)}
    # the champion's classes as indices into the run's
    classes = np.array([positions.get(name, -1) for name in card.classes], dtype=np.int64)
    answers = np.empty(len(rows), np.int64)
    confidences = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        table = shards.rows(run.raw, run.row_ids[rows[part]].tolist())
        values = _probabilities(champion, model, card, table, batch_size)
        answers[part] = classes[values.argmax(axis=1)]
        confidences[part] = values.max(axis=1)
    return Compared(Answers(run.targets[rows], answers, run.answers[rows]), rows, confidences)


def groups(run: Run, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The slices of a run among n of its rows.

    Args:
        run: the run.
        rows: positions in the run, int64 (n,).

    Returns:
        "column=value" to which of these rows are in that slice, bool (n,).
    """
    masks = {}
    for column, all_values in run.slices.items():
        values = all_values[rows]
        for value in dict.fromkeys(values):
            masks[f"{column}={value}"] = values == value
    return masks


def trained(tree: Path, version: Version) -> frozenset[str]:
    """The rows that a version was trained on, by row_id.

    Prepared data are never pushed. If they are gone, the split is computed again from the version's
    raw rows and params. For a version of format 1 that includes quarantined rows, which are in no
    test split either.
    """
    contents, cache = pipeline.of_commit(tree, version.commit), Cache(tree)
    prepared = contents.output(PREPARED)
    if cache.has(prepared.md5):
        md5 = cache.listing(prepared.md5, PREPARED).get(TRAINED)
        if md5 and cache.has(md5):
            return _row_ids(cache.check(md5, TRAINED))
    settings = next(
        sections["prepare"] for sections in contents.params.values() if "prepare" in sections
    )
    fractions = float(settings["val_fraction"]), float(settings["test_fraction"])
    with _raw(tree, version) as folder:
        raw = shards.Shards.open(folder)
        dropped = _quarantined(tree, version) if raw.format > 1 else {}
        return _split_again(raw, dropped, *fractions)


def _quarantined(tree: Path, version: Version) -> dict[str, np.ndarray]:
    """The positions of a version's bad rows, by shard."""
    return dict(quarantine.by_shard(_pulled(tree, version, quarantine.FILE)))


def _split_again(
    raw: shards.Shards, dropped: Mapping[str, np.ndarray], val_fraction: float, test_fraction: float
) -> frozenset[str]:
    """The training rows of `raw`, by the rule of `prepare`.

    In format 1, no row moved to the training split to give its class a row there.
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
    """The champion's probabilities of its own classes, float32 (N, classes)."""
    values = probabilities(model, card, spec.inputs(table, card.parsed_spec()), batch_size)
    if not np.isfinite(values).all():
        raise CorruptModel(
            f"{champion.name} gives probabilities that are not finite; for details, run"
            f" `ratchet verify {champion.name}`"
        )
    return values


def _run(predictions: Path, card: Path, raw: Path, trained: frozenset[str]) -> Run:
    contract = Card.read(card).spec
    names = [name for name in pq.read_schema(predictions).names if name != "probabilities"]
    table = pq.read_table(predictions, columns=names)
    return Run(
        row_ids=np.asarray(table["row_id"].to_pylist(), dtype=object),
        targets=table["target"].to_numpy(),
        answers=table["prediction"].to_numpy(),
        confidences=_confidences(predictions),
        classes=tuple(contract["classes"]),
        contract=contract,
        raw=raw,
        trained=trained,
        slices={
            own(name): np.asarray(table[name].to_pylist(), dtype=object)
            for name in names
            if name not in _OWN
        },
    )


def _confidences(predictions: Path) -> np.ndarray:
    """The highest probability of each row, float32 (N,)."""
    parts = [np.empty(0, np.float32)]
    with pq.ParquetFile(predictions) as file:
        for batch in file.iter_batches(_ROWS, columns=["probabilities"]):
            values = batch.column(0).flatten().to_numpy()
            parts.append(values.reshape(len(batch), -1).max(axis=1))
    return np.concatenate(parts)


def _row_ids(file: Path) -> frozenset[str]:
    return frozenset(pq.read_table(file, columns=["row_id"])["row_id"].to_pylist())
