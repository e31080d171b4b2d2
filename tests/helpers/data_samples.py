"""Real images, and files of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ASSETS = Path(__file__).parents[1] / "assets"
REPOSITORY = Path(__file__).parents[2]


def png(array: np.ndarray, mode: str | None = None, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an array (or what `convert(mode)` makes of it) as an image file."""
    image = Image.fromarray(array)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def pictures(count: int, seed: int = 0, side: int = 8) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [png(random.integers(0, 256, (side, side), np.uint8)) for _ in range(count)]


def image_file(
    path: Path, images: Sequence[bytes | None], labels: Sequence[Any], **columns: Sequence[Any]
) -> Path:
    """A parquet file in the shape of the Hugging Face Image feature."""
    path.parent.mkdir(parents=True, exist_ok=True)
    column = [None if image is None else {"bytes": image, "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(column, kind), "label": labels, **columns}), path)
    return path
