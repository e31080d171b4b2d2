"""The report of an evaluation: one page with everything in it, the same bytes for the same model and data.

The charts are plain SVG out of the template, in the colours of the page: a plotting library's pictures know neither dark
and light nor a screen reader, and weigh more than the rest of the page.
"""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from tasks.data.files import writing
from tasks.learning import metrics
from tasks.learning.card import Card

SIDE = 96  # pixels of a picture's longer side; smaller images stay as they are
PER_CELL = 4  # examples behind a cell of the confusion matrix
BUDGET = 1_200_000  # characters of pictures behind those cells
HERE = Path(__file__).parent


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
    html = page("report.html").render(
        found=found,
        low_high=found.get("intervals", {}),
        card=card,
        matrix=matrix.tolist(),
        curves=_curves(curves),
        reliability=metrics.reliability(targets, probabilities),
        mistakes=[answers.row(row) for row in answers.worst(worst)],
        examples=answers.by_cell(),
        trained=dict(_flat({"model": card.params["model"], "train": card.params["train"]})),
    )
    with writing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def page(name: str) -> jinja2.Template:
    """A template of this folder, strict about what it is given."""
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    pages.globals["style"] = Markup((HERE / "report.css").read_text(encoding="utf-8"))  # our own files
    pages.globals["script"] = Markup((HERE / "report.js").read_text(encoding="utf-8"))
    pages.filters |= {"percent": _percent, "count": lambda value: f"{value:,}", "digits": _digits}
    return pages.get_template(name)


class Answers:
    """What the model said to each row, and pictures of it."""

    def __init__(self, card: Card, inputs: np.ndarray, targets: np.ndarray, probabilities: np.ndarray) -> None:
        self.card, self.inputs, self.targets, self.probabilities = card, inputs, targets, probabilities
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
            "first": [(self.card.classes[index], float(shares[index]), index == self.targets[row]) for index in first],
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
        pixels = self.inputs[row]  # (C, H, W)
        image = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)))
        image.thumbnail((SIDE, SIDE))
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def _curves(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file, delimiter="\t")]


def _flat(values: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(value, f"{before}{key}.") if isinstance(value, dict) and value else [(f"{before}{key}", value)]
    return found


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def _digits(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
