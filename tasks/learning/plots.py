"""The figures of an evaluation as data that DVC draws (`dvc plots show`, `dvc plots diff`)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.files import writing
from tasks.learning import metrics


def write(folder: Path, targets: np.ndarray, probabilities: np.ndarray, found: metrics.Figures) -> None:
    """Write `confusion.csv` (a line per test row), `classes.csv` and `reliability.csv`; `found` is the summary."""
    names = np.asarray(list(found["per_class"]))
    columns = ("precision", "recall", "f1")
    parts = metrics.reliability(targets, probabilities)
    with writing(folder) as made:
        made.mkdir()
        said = names[probabilities.argmax(1)]
        _table(made / "confusion.csv", ("actual", "predicted"), zip(names[targets], said, strict=True))
        per_class = ((name, *(row[key] for key in columns)) for name, row in found["per_class"].items())
        _table(made / "classes.csv", ("class", *columns), per_class)
        _table(made / "reliability.csv", ("confidence", "accuracy", "rows"), (_digits(part.values()) for part in parts))


def _digits(values: Iterable[Any]) -> list[Any]:
    return [round(float(value), 6) if isinstance(value, float) else value for value in values]


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
