"""The figures of an evaluation as data that DVC draws (`dvc plots show`, `dvc plots diff`), and a picture of their matrix."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ratchet.evaluation import metrics
from ratchet.files import writing

CELL, MARGIN, SIDE = (
    40,
    110,
    2000,
)  # pixels: of a cell of the picture, of the names beside them, of all cells at most
DARK = (31, 78, 140)


def write(
    folder: Path, targets: np.ndarray, probabilities: np.ndarray, found: metrics.Figures
) -> None:
    """Write `confusion.csv` (a line per test row), `classes.csv`, `reliability.csv` and `confusion.png`.

    Args:
        targets: int64 (N,).
        probabilities: float32 (N, classes).
        found: the summary of both.
    """
    names = np.asarray(list(found["per_class"]))
    columns = ("precision", "recall", "f1")
    parts = metrics.reliability(targets, probabilities)
    with writing(folder) as made:
        made.mkdir()
        said = names[probabilities.argmax(1)]
        _table(
            made / "confusion.csv", ("actual", "predicted"), zip(names[targets], said, strict=True)
        )
        per_class = (
            (name, *(row[key] for key in columns)) for name, row in found["per_class"].items()
        )
        _table(made / "classes.csv", ("class", *columns), per_class)
        _table(
            made / "reliability.csv",
            ("confidence", "accuracy", "rows"),
            (_digits(part.values()) for part in parts),
        )
        _matrix(metrics.confusion(targets, probabilities.argmax(1), len(names)), names).save(
            made / "confusion.png"
        )


def _digits(values: Iterable[Any]) -> list[Any]:
    return [round(float(value), 6) if isinstance(value, float) else value for value in values]


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _matrix(confusion: np.ndarray, names: np.ndarray) -> Image.Image:
    """Rows are what is right, columns what was said.

    The darker, the larger the share of the row.
    """
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    colours = 255 - share[..., None] * (255 - np.array(DARK))
    cell = max(1, min(CELL, SIDE // len(names)))
    side = cell * len(names)
    cells = Image.fromarray(colours.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    if cell < CELL:  # too many classes for writing
        return cells
    picture, above = (
        Image.new("RGB", (MARGIN + side, MARGIN + side), "white"),
        Image.new("RGB", (MARGIN, side), "white"),
    )
    picture.paste(cells, (MARGIN, MARGIN))
    columns, rows, font = ImageDraw.Draw(above), ImageDraw.Draw(picture), ImageFont.load_default(12)
    for row, name in enumerate(names):
        at = cell * row + cell // 2
        columns.text((6, at), str(name)[:16], "black", font, "lm")  # lying on their side
        rows.text((MARGIN - 6, MARGIN + at), str(name)[:16], "black", font, "rm")
        for column in np.flatnonzero(confusion[row]):
            ink = "white" if share[row, column] > 0.5 else "black"
            place = (MARGIN + cell * int(column) + cell // 2, MARGIN + at)
            rows.text(place, str(confusion[row, column]), ink, font, "mm")
    picture.paste(above.transpose(Image.Transpose.ROTATE_90), (MARGIN, 0))
    return picture
