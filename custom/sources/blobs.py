"""An example of a source: two clouds of points in the plane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


class Blobs:
    """A source of two features, `x` and `y`.

    Args:
        rows: the number of rows; the classes alternate.
        seed: the seed of the random numbers.
    """

    classes = ("left", "right")
    licence = "CC0-1.0"

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed = rows, seed

    def revision(self) -> str:
        """Identify the rows: the same revision means the same rows."""
        return f"{self._rows} rows of seed {self._seed}"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows: standard normal around (-2, 0) for "left" and (2, 0) for "right"."""
        random = np.random.default_rng(self._seed)
        for row in range(self._rows):
            label = row % 2
            x, y = random.normal([4 * label - 2, 0], 1)
            yield {"label": label, "x": float(x), "y": float(y)}
