"""Plots of an evaluation: tables that `dvc plots show` and `dvc plots diff` draw, and an image."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ratchet.evaluation import metrics
from ratchet.files import writing

CELL = 40  # pixels of a cell of the confusion matrix
MARGIN = 110  # pixels for the names beside the cells
SIDE = 2000  # pixels of all cells, at most
DARK = (31, 78, 140)  # red, green, blue


def write(
    folder: Path, targets: np.ndarray, probabilities: np.ndarray, figures: metrics.Figures
) -> None:
    """Write `confusion.csv`, `classes.csv`, `reliability.csv` and `confusion.png`.

    `confusion.csv` has a line per test row.

    Args:
        folder: where to write; replaced.
        targets: (N,) int64.
        probabilities: (N, classes) float32.
        figures: what `metrics.summary` returned for them.
    """
    names = np.asarray(list(figures["per_class"]))
    columns = ("precision", "recall", "f1")
    predictions = probabilities.argmax(1)
    pairs = zip(names[targets], names[predictions], strict=True)
    per_class = [
        [name, *(row[key] for key in columns)] for name, row in figures["per_class"].items()
    ]
    bins = [_digits(row.values()) for row in metrics.reliability(targets, probabilities)]
    image = _matrix(metrics.confusion(targets, predictions, len(names)), names)
    with writing(folder) as temporary:
        temporary.mkdir()
        _table(temporary / "confusion.csv", ("actual", "predicted"), pairs)
        _table(temporary / "classes.csv", ("class", *columns), per_class)
        _table(temporary / "reliability.csv", ("confidence", "accuracy", "rows"), bins)
        image.save(temporary / "confusion.png")


def _digits(values: Iterable[Any]) -> list[Any]:
    """Round the floats to six decimal places."""
    return [round(float(value), 6) if isinstance(value, float) else value for value in values]


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _matrix(confusion: np.ndarray, names: np.ndarray) -> Image.Image:
    """Draw the confusion matrix: rows are true classes, columns predicted ones.

    The darker a cell, the larger its share of the row.
    """
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    colours = 255 - share[..., None] * (255 - np.array(DARK))
    cell = max(1, min(CELL, SIDE // len(names)))
    side = cell * len(names)
    cells = Image.fromarray(colours.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
    if cell < CELL:  # too many classes for text
        return cells
    picture = Image.new("RGB", (MARGIN + side, MARGIN + side), "white")
    header = Image.new("RGB", (MARGIN, side), "white")  # the names of the columns, rotated below
    picture.paste(cells, (MARGIN, MARGIN))
    columns, rows, font = (
        ImageDraw.Draw(header),
        ImageDraw.Draw(picture),
        ImageFont.load_default(12),
    )
    for row, name in enumerate(names):
        middle = cell * row + cell // 2
        columns.text((6, middle), str(name)[:16], "black", font, "lm")
        rows.text((MARGIN - 6, MARGIN + middle), str(name)[:16], "black", font, "rm")
        for column in np.flatnonzero(confusion[row]):
            ink = "white" if share[row, column] > 0.5 else "black"
            place = (MARGIN + cell * int(column) + cell // 2, MARGIN + middle)
            rows.text(place, str(confusion[row, column]), ink, font, "mm")
    picture.paste(header.transpose(Image.Transpose.ROTATE_90), (MARGIN, 0))
    return picture
