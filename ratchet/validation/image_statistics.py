"""Describe the images of a data set, and warn of what preparation would lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ratchet import images
from ratchet.params import PrepareParams

MEASURED = 500  # about how many images of a shard have their brightness measured
NOTABLE = 0.1  # a warning appears if a larger share of the images loses something


class Pictures:
    """Decodes the images of one shard and counts their sizes, modes and colours."""

    def __init__(self, rows: int, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self.every = -(-rows // MEASURED)
        self.sizes: Counter[tuple[int, int]] = Counter()  # width and height of the good images
        self.modes: Counter[str] = Counter()
        self.colour = 0  # good images whose channels differ
        self.details: list[str | None] = []
        self.brightness: list[int] = []

    def faults(self, column: pa.ChunkedArray) -> list[str | None]:
        """Decode a column of images; return the reason code of each bad image, and else None."""
        return list(map(self._fault, column.combine_chunks().field("bytes").to_pylist()))

    def _fault(self, encoded: bytes | None) -> str | None:
        try:
            picture = images.decode(encoded, self.max_pixels)
        except images.BadImage as error:
            self.details.append(error.detail)
            return error.reason
        self.details.append(None)
        self.sizes[picture.image.size] += 1
        self.modes[picture.mode] += 1
        self.colour += images.in_colour(picture.image)
        if len(self.details) % self.every == 0:
            self.brightness.append(images.brightness(picture.image))
        return None

    def summary(self) -> dict[str, Any]:
        """The counts of the good images, for JSON."""
        sizes = {f"{width}x{height}": count for (width, height), count in self.sizes.items()}
        return {"sizes": sizes, "modes": self.modes, "colour": self.colour}


def warnings(prepare: PrepareParams, report: Mapping[str, Any]) -> list[str]:
    """Warn if `prepare.size` or `prepare.channels` discards information of many images."""
    sizes, total = report["sizes"], sum(report["sizes"].values())
    height, width = prepare.size
    larger = {size: count for size, count in sizes.items() if _exceeds(size, width, height)}
    losses, params = [], []
    if sum(larger.values()) > NOTABLE * total:
        count, usual = sum(larger.values()), _usual(larger)
        losses.append(
            f"{count:,} of {total:,} images are larger than prepare.size {width}x{height} ({usual},"
            " width x height)"
        )
        params.append("prepare.size")
    if prepare.channels == 1 and report["colour"] > NOTABLE * total:
        losses.append(
            f"{report['colour']:,} of {total:,} images are in colour while prepare.channels is 1"
        )
        params.append("prepare.channels")
    if not losses:
        return []
    return [
        f"{' and '.join(losses)}; raise {' and '.join(params)}, or ignore this if it is intended"
    ]


def _sides(size: str) -> tuple[int, int]:
    """Width and height from text such as `64x48`."""
    width, height = size.split("x")
    return int(width), int(height)


def _exceeds(size: str, width: int, height: int) -> bool:
    columns, rows = _sides(size)
    return columns > width or rows > height


def _usual(sizes: Mapping[str, int]) -> str:
    """The size of most images, or the range if there are many sizes."""
    total, common = sum(sizes.values()), max(sizes, key=sizes.__getitem__)
    if sizes[common] == total:
        return f"all are {common}"
    if sizes[common] > total / 2:
        return f"most are {common}"
    ordered = sorted(sizes, key=lambda size: (_sides(size)[0] * _sides(size)[1], size))
    return f"from {ordered[0]} to {ordered[-1]}"
