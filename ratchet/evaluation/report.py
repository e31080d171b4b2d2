"""The report of an evaluation: one page with everything in it, the same bytes for the same model and data.

The charts are plain SVG out of the template, in the colours of the page: a plotting library's
pictures know neither dark and light nor a screen reader, and weigh more than the rest of the page.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.evaluation import metrics
from ratchet.models.card import Card
from ratchet.pages import page

TEMPLATE = Path(__file__).with_name("report.html")
PER_CELL = 4  # examples behind a cell of the confusion matrix
BUDGET = 1_200_000  # characters of pictures behind those cells


def write(
    path: Path,
    found: metrics.Figures,
    card: Card,
    inputs: np.ndarray,
    targets: np.ndarray,
    probabilities: np.ndarray,
    worst: int,
    curves: Path,
) -> None:
    """Write the page.

    Args:
        found: what `metrics.summary` gave.
        inputs: (N, C, H, W) uint8 or (N, F) float32.
        worst: mistakes to show.
        curves: the table of the training, left out where it is not there.
    """
    said = probabilities.argmax(1)
    matrix = metrics.confusion(targets, said, len(card.classes))
    answers = Answers(card, inputs, targets, probabilities)
    values = {
        "found": found,
        "low_high": found.get("intervals", {}),
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
    """What the model said to each row, and pictures of it."""

    def __init__(
        self, card: Card, inputs: np.ndarray, targets: np.ndarray, probabilities: np.ndarray
    ) -> None:
        self.card, self.inputs, self.targets, self.probabilities = (
            card,
            inputs,
            targets,
            probabilities,
        )
        self.said = probabilities.argmax(1)
        self.loss = metrics.log_loss(targets, probabilities)

    def worst(self, most: int) -> list[int]:
        """The wrong answers with the least probability for the right class, worst first."""
        wrong = np.flatnonzero(self.said != self.targets)
        return [int(row) for row in wrong[np.argsort(-self.loss[wrong], kind="stable")[:most]]]

    def row(self, row: int) -> dict[str, Any]:
        shares = self.probabilities[row]
        first = np.argsort(-shares, kind="stable")[:3]
        return {
            "row": row,
            "target": self.card.classes[self.targets[row]],
            "said": self.card.classes[self.said[row]],
            "for_target": float(shares[self.targets[row]]),
            "first": [
                (self.card.classes[index], float(shares[index]), index == self.targets[row])
                for index in first
            ],
            "picture": self.picture(row),
        }

    def by_cell(self) -> dict[str, list[dict[str, Any]]]:
        """Examples per cell "true-said" of the confusion matrix, the worst first, mistakes before right answers."""
        found: dict[str, list[dict[str, Any]]] = {}
        spent = 0
        order = np.lexsort((-self.loss, self.said == self.targets))
        for row in order if self.card.spec["kind"] == "image" else []:
            cell = found.setdefault(f"{self.targets[row]}-{self.said[row]}", [])
            if len(cell) < PER_CELL and spent < BUDGET:
                picture = self.picture(int(row)) or ""
                spent += len(picture)
                share = f"{self.probabilities[row, self.said[row]]:.1%}"
                cell.append({"row": int(row), "share": share, "picture": picture})
        return {key: cell for key, cell in sorted(found.items()) if cell}

    def picture(self, row: int) -> str | None:
        """The image of a row as a PNG in a data URI."""
        if self.card.spec["kind"] != "image":
            return None
        return page.picture(self.inputs[row])


def _curves(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key: float(value) for key, value in row.items()}
            for row in csv.DictReader(file, delimiter="\t")
        ]


def _flat(values: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += (
            _flat(value, f"{before}{key}.")
            if isinstance(value, dict) and value
            else [(f"{before}{key}", value)]
        )
    return found
