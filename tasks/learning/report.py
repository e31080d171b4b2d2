"""The report of an evaluation: one page with everything in it, the same bytes for the same model and data."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from tasks.data.files import writing
from tasks.learning import metrics
from tasks.learning.card import Card


def write(
    path: Path,
    found: dict[str, Any],
    card: Card,
    inputs: np.ndarray,
    targets: np.ndarray,
    probabilities: np.ndarray,
    worst: int,
) -> None:
    """Write the page.

    Args:
        found: what `metrics.summary` gave.
        inputs: (N, C, H, W) uint8 or (N, F) float32.
        worst: mistakes to show.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    html = pages.get_template("report.html").render(
        found=found,
        card=card,
        matrix=metrics.confusion(targets, probabilities.argmax(1), len(card.classes)).tolist(),
        mistakes=_mistakes(card, inputs, targets, probabilities, worst),
    )
    with writing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _mistakes(
    card: Card, inputs: np.ndarray, targets: np.ndarray, probabilities: np.ndarray, most: int
) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of not being wrong about, worst first."""
    said = probabilities.argmax(1)
    loss = metrics.log_loss(targets, probabilities)
    wrong = np.flatnonzero(said != targets)
    chosen = wrong[np.argsort(-loss[wrong], kind="stable")[:most]]
    return [
        {
            "row": int(row),
            "target": card.classes[targets[row]],
            "said": card.classes[said[row]],
            "for_target": float(probabilities[row, targets[row]]),
            "for_said": float(probabilities[row, said[row]]),
            "picture": picture(inputs[row]) if card.spec["kind"] == "image" else None,
        }
        for row in chosen
    ]


def picture(image: np.ndarray) -> str:
    """(C, H, W) uint8 as a PNG in a data URI."""
    pixels = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
