"""Write the validation report as one HTML file with embedded pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from ratchet import images
from ratchet.files import writing
from ratchet.shards import parquet
from ratchet.shards.shards import Shard, Shards
from ratchet.validation import histogram
from ratchet.validation.rules import REASONS

EXAMPLES = 8  # rows shown for each reason
SIDE = 64  # longer side of a picture, in pixels


def write(
    path: Path, report: dict[str, Any], shards: Shards, quarantine: Path, max_pixels: int
) -> None:
    """Write the page to `path`; images of more than `max_pixels` are not decoded."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = page.get_template("page.html").render(
        report=report,
        meanings=REASONS,
        examples=_examples(shards, quarantine, max_pixels),
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


def _examples(shards: Shards, quarantine: Path, max_pixels: int) -> dict[str, list[dict[str, Any]]]:
    """The first bad rows of each reason, with their picture if there is one."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for table in parquet.batches(quarantine):
        for row in table.to_pylist():
            rows = by_reason.setdefault(row["reason"], [])
            if len(rows) < EXAMPLES:
                rows.append(row)
    examples = [row for rows in by_reason.values() for row in rows]
    numbers: dict[str, set[int]] = {}  # of the rows with a picture, by shard
    if shards.kind == "image":
        for row in examples:
            numbers.setdefault(row["shard"], set()).add(row["row"])
    pictures: dict[tuple[str, int], str] = {}
    for shard in shards:
        if shard.path.name in numbers:
            pictures.update(_pictures(shard, numbers[shard.path.name], max_pixels))
    for row in examples:
        row["picture"] = pictures.get((row["shard"], row["row"]))
    return dict(sorted(by_reason.items()))


def _pictures(
    shard: Shard, rows: set[int], max_pixels: int
) -> Iterator[tuple[tuple[str, int], str]]:
    """Yield the shard, the row and the data URI of each of `rows` that has a picture."""
    start = 0
    for table in shard.batches(["image"]):
        for row in sorted(row for row in rows if start <= row < start + len(table)):
            uri = _uri(table["image"][row - start].as_py(), max_pixels)
            if uri:
                yield (shard.path.name, row), uri
        start += len(table)


def _uri(image: dict[str, Any] | None, max_pixels: int) -> str | None:
    """A small PNG as a data URI, or None if the image cannot be decoded."""
    try:
        picture = images.decode(image["bytes"] if image else None, max_pixels).image
    except images.BadImage:
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
