"""The figures of an evaluation as data that DVC draws (`dvc plots show`, `dvc plots diff`)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.data.files import writing


def write(folder: Path, targets: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> None:
    """Write `confusion.csv`, a line per test row, which DVC's template `confusion` counts."""
    names = np.asarray(classes)
    rows = zip(names[targets], names[probabilities.argmax(1)], strict=True)
    with writing(folder) as made:
        made.mkdir()
        _table(made / "confusion.csv", ("actual", "predicted"), rows)


def _table(path: Path, header: Sequence[str], rows: object) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)  # type: ignore[arg-type]  # any iterable of rows
