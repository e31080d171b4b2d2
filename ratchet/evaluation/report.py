"""The report of an evaluation: one self-contained page, with equal bytes for equal model and data.

The template draws the charts as plain SVG in the colours of the page. The images of a plotting
library support neither a dark theme nor screen readers, and are larger than the rest of the page.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.evaluation import metrics
from ratchet.evaluation.scored import log_loss
from ratchet.models.card import Card
from ratchet.pages import page

TEMPLATE = Path(__file__).with_name("report.html")
PER_CELL = 4  # examples of a cell of the confusion matrix
BUDGET = 1_200_000  # characters of the pictures in these examples


def write(
    path: Path,
    figures: metrics.Figures,
    card: Card,
    inputs: np.ndarray,
    targets: np.ndarray,
    probabilities: np.ndarray,
    worst: int,
    curves: Path,
) -> None:
    """Write the page.

    Args:
        path: the file to write.
        figures: what `metrics.summary` returned.
        card: the card of the model.
        inputs: (N, C, H, W) uint8 or (N, F) float32, the test rows.
        targets: (N,) int64.
        probabilities: (N, classes) float32.
        worst: number of mistakes to show.
        curves: the learning curves, a TSV file; left out if it does not exist.
    """
    matrix = metrics.confusion(targets, probabilities.argmax(1), len(card.classes))
    answers = Answers(card, inputs, targets, probabilities)
    values = {
        "figures": figures,
        "low_high": figures.get("intervals", {}),
        "card": card,
        "matrix": matrix.tolist(),
        "curves": _curves(curves),
        "reliability": metrics.reliability(targets, probabilities),
        "mistakes": [answers.row(row) for row in answers.worst(worst)],
        "examples": answers.by_cell(),
        "trained": dict(_flat({"model": card.params["model"], "train": card.params["train"]})),
    }
    page.write(path, TEMPLATE, values)


class Answers:
    """The model's predictions for the test rows, and pictures of the rows."""

    def __init__(
        self, card: Card, inputs: np.ndarray, targets: np.ndarray, probabilities: np.ndarray
    ) -> None:
        self.card, self.inputs = card, inputs
        self.targets, self.probabilities = targets, probabilities
        self.predictions = probabilities.argmax(1)
        self.loss = log_loss(targets, probabilities)

    def worst(self, most: int) -> list[int]:
        """List at most `most` wrong rows, first those with the least probable right class."""
        wrong = np.flatnonzero(self.predictions != self.targets)
        return [int(row) for row in wrong[np.argsort(-self.loss[wrong], kind="stable")[:most]]]

    def row(self, row: int) -> dict[str, Any]:
        """Describe a row for the template: classes, the three most probable ones, picture."""
        shares = self.probabilities[row]
        first = np.argsort(-shares, kind="stable")[:3]
        return {
            "row": row,
            "target": self.card.classes[self.targets[row]],
            "prediction": self.card.classes[self.predictions[row]],
            "for_target": float(shares[self.targets[row]]),
            "first": [
                (self.card.classes[index], float(shares[index]), index == self.targets[row])
                for index in first
            ],
            "picture": self.picture(row),
        }

    def by_cell(self) -> dict[str, list[dict[str, Any]]]:
        """Choose examples for each cell of the confusion matrix, those with the largest loss first.

        Mistakes come before right predictions. The key of a cell is "<true>-<predicted>", two class
        numbers.
        """
        if self.card.spec["kind"] != "image":
            return {}
        cells: dict[str, list[dict[str, Any]]] = {}
        spent = 0
        for row in np.lexsort((-self.loss, self.predictions == self.targets)):
            cell = cells.setdefault(f"{self.targets[row]}-{self.predictions[row]}", [])
            if len(cell) < PER_CELL and spent < BUDGET:
                picture = self.picture(int(row)) or ""
                spent += len(picture)
                share = f"{self.probabilities[row, self.predictions[row]]:.1%}"
                cell.append({"row": int(row), "share": share, "picture": picture})
        return {key: cell for key, cell in sorted(cells.items()) if cell}

    def picture(self, row: int) -> str | None:
        """Return the image of a row as a PNG in a data URI, or None for features."""
        if self.card.spec["kind"] != "image":
            return None
        return page.picture(self.inputs[row])


def _curves(path: Path) -> list[dict[str, float]]:
    """Read the learning curves, one dict per epoch; empty if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key: float(value) for key, value in row.items()}
            for row in csv.DictReader(file, delimiter="\t")
        ]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested dicts to pairs of a dotted key and a value."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
