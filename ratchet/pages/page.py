"""What our pages share: one file each with everything in it, one look, strict templates.

No torch.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from ratchet.files import writing

SIDE = 96  # pixels of a picture's longer side; smaller images stay as they are
HERE = Path(__file__).parent
BASE, STYLE, SCRIPT = "base.html", "page.css", "page.js"


def write(path: Path, template: Path, values: Mapping[str, Any]) -> None:
    """Fill in `template`, which extends `base.html`, and write the page whole or not at all."""
    html = environment(template.parent).get_template(template.name).render(values)
    with writing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def environment(folder: Path) -> jinja2.Environment:
    """Templates of `folder` and of this one, strict about what they are given."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, HERE]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.globals["base"] = BASE
    made.globals["style"] = Markup((HERE / STYLE).read_text(encoding="utf-8"))  # our own files
    made.globals["script"] = Markup((HERE / SCRIPT).read_text(encoding="utf-8"))
    made.filters |= {
        "percent": _percent,
        "points": _points,
        "count": lambda value: f"{value:,}",
        "digits": _digits,
    }
    return made


def picture(pixels: np.ndarray) -> str:
    """An image, uint8 (C, H, W), as a small PNG in a data URI."""
    image = Image.fromarray(
        np.ascontiguousarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    )
    image.thumbnail((SIDE, SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def _points(value: float | None, digits: int = 2) -> str:
    """A difference of shares, with its sign."""
    return "–" if value is None else f"{100 * value:+.{digits}f}".replace("-", "−")


def _digits(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
