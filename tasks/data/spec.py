"""What a model is fed: shape, classes, and statistics of the training split; and how rows become such inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.data import images
from tasks.data.columns import FEATURE, own, prefixed
from tasks.data.files import write_json
from tasks.errors import CorruptData


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The content of `spec.json`; `mean` and `std` are per channel (of pixels as 0..1) or per feature."""

    kind: str  # "image" or "features"
    input_shape: tuple[int, ...]  # (C, H, W) or (F,)
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: Mapping[str, int]  # rows per split
    features: tuple[str, ...] | None
    size: tuple[int, int] | None  # height, width
    channels: int | None

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Raises `CorruptData` if the file is missing or is no spec."""
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CorruptData(f"{path} is no spec: {error}; run `dvc repro prepare`") from None

    @classmethod
    def parse(cls, content: Mapping[str, object]) -> Spec:
        """From JSON's lists and objects, as a card holds them too."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})  # type: ignore[arg-type]

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


def inputs(table: pa.Table, spec: Spec) -> np.ndarray:
    """Rows as shards hold them, as a model of `spec` is fed: uint8 (N, C, H, W) or float32 (N, F).

    Missing and infinite features become the mean of the training split.

    Raises:
        BadImage: an image cannot be decoded.
        CorruptData: a column of the spec is missing.
    """
    array = raw(table, spec)
    return array if spec.kind == "image" else imputed(array, np.asarray(spec.mean))


def raw(table: pa.Table, spec: Spec) -> np.ndarray:
    """As `inputs`, but what is missing in features stays NaN."""
    needed = ["image"] if spec.kind == "image" else prefixed(FEATURE, spec.features or ())
    missing = [own(name) for name in needed if name not in table.column_names]
    if missing:
        has = ", ".join(map(own, table.column_names))
        raise CorruptData(f"the rows lack {', '.join(missing)}; they have {has}")
    if spec.kind == "image":
        return decoded(table["image"], spec)
    return features(table, needed)


def decoded(column: pa.ChunkedArray, spec: Spec) -> np.ndarray:
    """uint8 (N, C, H, W)"""
    assert spec.size is not None and spec.channels is not None
    encoded = column.combine_chunks().field("bytes").to_pylist()
    return images.stacked(encoded, spec.size, spec.channels)


def features(table: pa.Table, names: list[str]) -> np.ndarray:
    """float32 (N, F); what is missing or not finite is NaN."""
    columns = [table[name].cast(pa.float64(), safe=False).to_numpy() for name in names]
    array = np.stack(columns, axis=1).astype(np.float32) if columns else np.empty((len(table), 0), np.float32)
    return np.where(np.isfinite(array), array, np.nan).astype(np.float32)


def imputed(array: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(array), mean.astype(np.float32), array)
