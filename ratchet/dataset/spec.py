"""What a model is fed: shape, classes, and statistics of the training split.

And how rows become such inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ratchet import images
from ratchet.columns import FEATURE, own, prefixed
from ratchet.errors import CorruptData
from ratchet.files import write_json
from ratchet.formats import Format, known, required

# 2: prepare standardises features. 1 (no number): it left them as they were, for `Normalise`
FORMAT = Format("a spec", 2, "run `dvc repro prepare`")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The content of `spec.json`.

    `mean` and `std` are per channel (of pixels as 0..1) or per feature.
    """

    kind: str  # "image" or "features"
    input_shape: tuple[int, ...]  # (C, H, W) or (F,)
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: Mapping[str, int] = field(default_factory=dict)  # rows per split
    features: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None  # height, width
    channels: int | None = None
    format: int = 1  # what a file without a number has

    @property
    def standardised(self) -> bool:
        """Are inputs brought to mean 0 and standard deviation 1 before they are stored or handed on?

        The one place that knows the formats: if not, `Normalise` does it on the device.
        """
        return self.kind == "features" and self.format >= 2

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Raises `CorruptData` if the file is missing or does not hold a spec."""
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")), path)
        except (OSError, ValueError, TypeError) as error:
            raise CorruptData(
                f"{path} does not hold a spec: {error}; run `dvc repro prepare`"
            ) from None

    @classmethod
    def parse(cls, content: object, where: object = "the spec in the card") -> Spec:
        """From JSON's lists and objects, as a card holds them too; unknown fields are ignored.

        Raises:
            CorruptData: it is not a spec, or of a newer format that this Ratchet would misread.
        """
        values = known(cls, FORMAT.require(content, REQUIRED, where))
        if values["kind"] == "image":
            channels, *size = values["input_shape"]
            values = {"channels": channels, "size": size, **values}
        else:
            FORMAT.require(content, ("features",), where)
        for key, value in values.items():
            if isinstance(value, list):
                values[key] = tuple(value)
        return cls(**values)

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


REQUIRED = required(Spec)


def inputs(table: pa.Table, spec: Spec) -> np.ndarray:
    """Rows as shards hold them, as a model of `spec` is fed: uint8 (N, C, H, W) or float32 (N, F).

    Missing and infinite features become the mean of the training split.

    Raises:
        BadImage: an image cannot be decoded.
        CorruptData: a column of the spec is missing.
    """
    array = raw(table, spec)
    return array if spec.kind == "image" else numeric(array, spec)


def raw(table: pa.Table, spec: Spec) -> np.ndarray:
    """Images as in `inputs`.

    Features as they are, float64 (N, F) with NaN for what is missing or not finite.
    """
    needed = ["image"] if spec.kind == "image" else prefixed(FEATURE, spec.features or ())
    missing = [own(name) for name in needed if name not in table.column_names]
    if missing:
        has = ", ".join(map(own, table.column_names))
        raise CorruptData(f"the rows lack {', '.join(missing)}; they have {has}")
    if spec.kind == "image":
        return decoded(table["image"], spec)
    columns = [table[name].cast(pa.float64(), safe=False).to_numpy() for name in needed]
    array = np.stack(columns, axis=1)
    return np.where(np.isfinite(array), array, np.nan)


def numeric(array: np.ndarray, spec: Spec) -> np.ndarray:
    """Features as `raw` gives them, as a model of `spec` is fed: float32 (N, F) without NaN.

    They are standardised in float64: a float32 of 1.7e9 seconds is off by up to a minute.
    """
    mean, std = np.asarray(spec.mean), np.asarray(spec.std)
    if not spec.standardised:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        return np.where(np.isfinite(array), array, mean.astype(np.float32))
    with np.errstate(over="ignore"):  # a value that overflows is infinite, and its row is refused
        standardised: np.ndarray = (np.where(np.isnan(array), mean, array) - mean) / std
        return standardised.astype(np.float32)


def decoded(column: pa.ChunkedArray, spec: Spec) -> np.ndarray:
    """uint8 (N, C, H, W)"""
    assert spec.size is not None and spec.channels is not None
    encoded = column.combine_chunks().field("bytes").to_pylist()
    return images.stacked(encoded, spec.size, spec.channels)
