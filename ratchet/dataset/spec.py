"""The spec of a model's inputs: shape, classes, and statistics of the training split.

The functions below convert rows to such inputs.
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

# Format 2: `prepare` standardises features. Format 1 (no number): `Normalise` does.
FORMAT = Format("a spec", 2, "run `dvc repro prepare`")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The content of `spec.json`."""

    kind: str  # "image" or "features"
    input_shape: tuple[int, ...]  # (C, H, W) or (F,)
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, of pixels from 0 to 1, or per feature
    std: tuple[float, ...]  # likewise
    counts: Mapping[str, int] = field(default_factory=dict)  # rows per split
    features: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None  # height, width
    channels: int | None = None
    format: int = 1  # of a file without a number

    @property
    def standardised(self) -> bool:
        """Whether `prepare` and `inputs` standardise the inputs; otherwise `Normalise` does.

        Only this property depends on the format.
        """
        return self.kind == "features" and self.format >= 2

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Read a spec from a file.

        Raises:
            CorruptData: the file is missing or is not a spec.
        """
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")), path)
        except (OSError, ValueError, TypeError) as error:
            raise CorruptData(
                f"{path} cannot be read as a spec: {error}; run `dvc repro prepare`"
            ) from None

    @classmethod
    def parse(cls, content: object, where: object = "the spec in the card") -> Spec:
        """Build a spec from parsed JSON, such as a card contains, ignoring unknown fields.

        Args:
            content: the parsed JSON.
            where: the name of its file in messages.

        Raises:
            CorruptData: the content is not a spec, or has a newer format that this Ratchet would
                misread.
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
        """Write the spec to a file."""
        write_json(path, asdict(self))


REQUIRED = required(Spec)


def inputs(table: pa.Table, spec: Spec) -> np.ndarray:
    """Convert the rows of a shard to the inputs of a model.

    Missing and infinite features become the mean of the training split.

    Args:
        table: N rows, with the columns of a shard.
        spec: the spec of the model's inputs.

    Returns:
        (N, C, H, W) uint8 or (N, F) float32.

    Raises:
        BadImage: an image cannot be decoded.
        CorruptData: a column of the spec is missing.
    """
    array = raw(table, spec)
    return array if spec.kind == "image" else numeric(array, spec)


def raw(table: pa.Table, spec: Spec) -> np.ndarray:
    """Convert the rows of a shard to arrays, without standardising features.

    Args:
        table: N rows, with the columns of a shard.
        spec: the spec of the model's inputs.

    Returns:
        Images as in `inputs`; features as (N, F) float64, with NaN for missing and infinite values.

    Raises:
        BadImage: an image cannot be decoded.
        CorruptData: a column of the spec is missing.
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
    """Convert features from `raw` to the inputs of a model.

    They are standardised in float64, because a float32 of 1.7e9 seconds is off by up to a minute.

    Args:
        array: (N, F) float64, with NaN for missing values.
        spec: the spec of the model's inputs.

    Returns:
        (N, F) float32 without NaN.
    """
    mean, std = np.asarray(spec.mean), np.asarray(spec.std)
    if not spec.standardised:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        return np.where(np.isfinite(array), array, mean.astype(np.float32))
    with np.errstate(over="ignore"):  # a value that overflows becomes infinite, and its row is bad
        standardised: np.ndarray = (np.where(np.isnan(array), mean, array) - mean) / std
        return standardised.astype(np.float32)


def decoded(column: pa.ChunkedArray, spec: Spec) -> np.ndarray:
    """Decode N images to (N, C, H, W) uint8; raise `BadImage` if one cannot be decoded."""
    assert spec.size is not None and spec.channels is not None
    encoded = column.combine_chunks().field("bytes").to_pylist()
    return images.stacked(encoded, spec.size, spec.channels)
