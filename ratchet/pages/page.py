"""The common part of all pages: a single self-contained file, one style, strict templates.

This module does not import torch.
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
    """Render `template`, which extends `base.html`, and write the page atomically.

    Args:
        path: the file to write.
        template: a Jinja template.
        values: the variables of the template.
    """
    html = environment(template.parent).get_template(template.name).render(values)
    with writing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def environment(folder: Path) -> jinja2.Environment:
    """Return an environment for the templates in `folder`; an undefined variable is an error."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, HERE]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.globals["base"] = BASE
    # Ratchet's own files need no escaping.
    templates.globals["style"] = Markup((HERE / STYLE).read_text(encoding="utf-8"))
    templates.globals["script"] = Markup((HERE / SCRIPT).read_text(encoding="utf-8"))
    templates.filters |= {
        "percent": _percent,
        "points": _points,
        "count": lambda value: f"{value:,}",
        "digits": _digits,
    }
    return templates


def picture(pixels: np.ndarray) -> str:
    """Encode an image, (C, H, W) uint8, as a small PNG in a data URI."""
    array = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    image = Image.fromarray(np.ascontiguousarray(array))
    image.thumbnail((SIDE, SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()


def _percent(value: float | None, digits: int = 2) -> str:
    """Format a share as a percentage."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def _points(value: float | None, digits: int = 2) -> str:
    """Format a difference of shares in percentage points, with its sign."""
    return "–" if value is None else f"{100 * value:+.{digits}f}".replace("-", "−")


def _digits(value: float | None, digits: int = 4) -> str:
    """Format a number with `digits` decimal places."""
    return "–" if value is None else f"{value:.{digits}f}"
