"""What the champion answers to the challenger's test rows: from the raw rows, with the champion's own spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.data import shards, spec
from tasks.learning.card import load_model
from tasks.learning.predict import probabilities
from tasks.versions import loading
from tasks.versions.registry import Version

PREDICTIONS = "reports/predictions.parquet"
RAW = "data/raw"
_ROWS = 20_000  # held decoded at once


@dataclass(frozen=True)
class Answers:
    """Class names per row, in one order: what is right and what a model said; object arrays (N,)."""

    row_ids: Sequence[str]
    targets: np.ndarray
    said: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which answers are right: bool (N,)."""
        return np.asarray(self.targets == self.said)


def challenger(tree: Path, classes: Sequence[str]) -> Answers:
    """The answers that `evaluate` wrote, with the class names of the challenger's spec."""
    table = pq.read_table(tree / PREDICTIONS, columns=["row_id", "target", "prediction"])
    named = np.asarray(classes, dtype=object)
    targets, said = (named[table[name].to_numpy()] for name in ("target", "prediction"))
    return Answers(table["row_id"].to_pylist(), targets, said)


def champion(tree: Path, version: Version, row_ids: Sequence[str], batch_size: int) -> np.ndarray:
    """Class names that `version` answers to the rows `row_ids` of `data/raw`: object (N,).

    Raises:
        ObjectsMissing, CorruptData, CorruptModel: the champion's files can't be had whole.
    """
    weights, card_file = loading.files(tree, version)
    model, card = load_model(card_file, weights)
    named = np.asarray(card.classes, dtype=object)
    said = []
    for start in range(0, len(row_ids), _ROWS):
        table = shards.rows(tree / RAW, row_ids[start : start + _ROWS])
        inputs = spec.inputs(table, card.parsed_spec())
        said.append(named[probabilities(model, card, inputs, batch_size).argmax(axis=1)])
    return np.concatenate(said) if said else np.empty(0, dtype=object)
