"""The page of the validation: one file, with the pictures inside it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from tasks.data import histogram, images, parquet
from tasks.data.files import writing
from tasks.data.schema import REASONS
from tasks.data.shards import Shards

EXAMPLES = 8  # of each reason
SIDE = 64  # pixels of a picture's longer side


def write(path: Path, report: dict[str, Any], shards: Shards, quarantine: Path) -> None:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = page.get_template("validation.html").render(
        report=report,
        meanings=REASONS,
        examples=_examples(shards, quarantine),
        licence=shards.info["licence"],
        quantiles=_quantiles(report),
    )
    with writing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _quantiles(report: dict[str, Any]) -> dict[str, list[float]]:
    return {
        name: histogram.quantiles({int(index): count for index, count in numbers["bins"].items()})
        for name, numbers in report["numbers"].items()
    }


def _examples(shards: Shards, quarantine: Path) -> dict[str, list[dict[str, Any]]]:
    """The first bad rows of each reason, with their picture where there is one."""
    found: dict[str, list[dict[str, Any]]] = {}
    for table in parquet.batches(quarantine):
        for row in table.to_pylist():
            rows = found.setdefault(row["reason"], [])
            if len(rows) < EXAMPLES:
                rows.append(row)
    wanted: dict[str, set[int]] = {}
    for row in (row for rows in found.values() for row in rows if shards.kind == "image"):
        wanted.setdefault(row["shard"], set()).add(row["row"])
    pictures = {key: uri for shard in shards if shard.path.name in wanted for key, uri in _pictures(shard, wanted)}
    for row in (row for rows in found.values() for row in rows):
        row["picture"] = pictures.get((row["shard"], row["row"]))
    return dict(sorted(found.items()))


def _pictures(shard: Any, wanted: dict[str, set[int]]) -> list[tuple[tuple[str, int], str]]:
    made, start, name = [], 0, shard.path.name
    for table in shard.batches(["image"]):
        for row in sorted(row for row in wanted[name] if start <= row < start + len(table)):
            uri = _uri(table["image"][row - start].as_py())
            if uri:
                made.append(((name, row), uri))
        start += len(table)
    return made


def _uri(image: dict[str, Any] | None) -> str | None:
    """A small PNG as a data URI, or nothing where there is no picture to show."""
    try:
        picture = images.load(image["bytes"] if image else None).convert("RGB")
    except images.BadImage:
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
