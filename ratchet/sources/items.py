"""Turn the items of a custom Dataset or source into rows: an image or features, and a label.

| value | becomes |
|---|---|
| image: PIL image | its pixels, unchanged |
| image: bytes; a path to a file in the checkout | the file, unchanged |
| image: uint8 array or tensor (H, W), (H, W, 1), (H, W, 3), (1, H, W), (3, H, W) | PNG |
| image: floats from 0 to 1 in these shapes, as from `ToTensor` | 255 times the value, rounded |
| features: 1-D array, tensor or list of numbers | columns `feature_names`, or x0, x1, ... |
| features: a dict of numbers | columns named after the keys |
| label: number, text or bool, or an array or tensor of one | the same; later text, by `labels.py` |
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ratchet.errors import CorruptData
from ratchet.sources.base import array_id, encoded

EXPECTED_IMAGE = (
    "expected a PIL image, the bytes of an image file, a path to one, or a uint8 or 0..1 float"
    " array or tensor of shape (H, W), (H, W, 3) or (3, H, W)"
)
EXPECTED_ITEM = "expected (image, label), (features, label) or a dict with the key label"
MODES = {  # PIL mode: the mode whose pixels are stored
    **{mode: mode for mode in ("L", "RGB", "RGBA", "I;16")},
    **dict.fromkeys(("LA", "La", "RGBa", "PA"), "RGBA"),
    **dict.fromkeys(("CMYK", "YCbCr", "HSV"), "RGB"),
    "1": "L",
}


@dataclass(frozen=True)
class Row:
    """One row of a source; either `image` (and its `id`) or `features`."""

    label: Any
    image: bytes | None = None
    id: str | None = None  # for pixels that did not come from a file
    features: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)  # columns beside an image; the split

    @property
    def columns(self) -> tuple[bool, tuple[str, ...]]:
        """What all rows of a source have in common: an image or not, and the other columns."""
        return self.is_image, (*self.features, *self.others)

    @property
    def is_image(self) -> bool:
        """Whether the row has an image instead of features."""
        return not self.features

    def digest(self) -> bytes:
        """A BLAKE2b digest of everything in the row, 16 bytes."""
        content = self.id or hashlib.blake2b(self.image or b"").hexdigest()
        values = [
            (type(self.label).__name__, self.label),
            *self.features.items(),
            *self.others.items(),
        ]
        return hashlib.blake2b(
            repr((content if self.is_image else "", values)).encode(), digest_size=16
        ).digest()


class BadItem(Exception):
    """An item cannot be read; the message says why."""


def row(item: object, feature_names: Sequence[str] | None, tree: Path, place: str) -> Row:
    """Turn one item into a row.

    Args:
        item: what the source yields.
        feature_names: names for features without names.
        tree: the checkout, in which images may be given by their path.
        place: the item's name in messages, such as `custom.sources.mine:Mine, row 3`.

    Raises:
        CorruptData: the item cannot be read in exactly one way.
    """
    try:
        if isinstance(item, Mapping):
            return _of_mapping(item, tree)
        if isinstance(item, (tuple, list)) and len(item) == 2:
            return _of_pair(item[0], item[1], feature_names, tree)
        raise BadItem(f"the item is {_described(item)}; {EXPECTED_ITEM}")
    except BadItem as problem:
        raise CorruptData(f"{place}: {problem}") from None
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # A tensor or a PIL image cannot be read.
        raise CorruptData(f"{place}: {type(error).__name__}: {error}") from error


def _of_mapping(item: Mapping[Any, Any], tree: Path) -> Row:
    if "label" not in item:
        raise BadItem(
            f"the item has the keys {', '.join(map(str, item)) or '(none)'}; {EXPECTED_ITEM}"
        )
    rest = {str(key): value for key, value in item.items() if key != "label"}
    if len(rest) < len(item) - 1:
        raise BadItem(
            f"the item has the keys {', '.join(map(repr, item))}, of which two have the same name"
        )
    others = {"split": rest.pop("split")} if "split" in rest else {}
    label = _label(item["label"])
    if "image" in rest:
        image, name = _image(rest.pop("image"), tree)
        return Row(label, image, name, others=others | _columns(rest))
    if not rest:
        raise BadItem(
            "the item has a label and nothing to predict it from; add image, or features by name"
        )
    return Row(label, features=_columns(rest), others=others)


def _of_pair(value: object, label: object, feature_names: Sequence[str] | None, tree: Path) -> Row:
    if isinstance(value, Mapping):
        if "label" in value:
            raise BadItem(
                "the item has a label of its own and one among its features; remove one of them"
            )
        return _of_mapping({**value, "label": label}, tree)
    array = _array(value)
    if array is not None and array.ndim == 1:
        return Row(_label(label), features=_features(array, feature_names))
    if isinstance(value, (list, tuple)):
        raise BadItem(f"image is {_described(value)}; {EXPECTED_IMAGE}")
    image, name = _image(value, tree)
    return Row(_label(label), image, name)


def _features(array: np.ndarray, names: Sequence[str] | None) -> dict[str, Any]:
    if array.dtype.kind not in "biuf":
        raise BadItem(f"the features are {array.dtype}; expected numbers")
    if names is None:
        names = [f"x{number}" for number in range(len(array))]
    else:
        names = [str(name) for name in names]
    if len(names) != len(array) or len(set(names)) != len(names) or not names:
        raise BadItem(
            f"there are {len(array)} features and {len(names)} feature_names"
            f" ({', '.join(names[:5])}, ...)"
        )
    return dict(zip(names, array.astype(np.float64).tolist(), strict=True))


def _columns(values: Mapping[str, object]) -> dict[str, Any]:
    columns = {name: _scalar(value) for name, value in values.items()}
    for name, value in columns.items():
        if value is not None and not isinstance(value, (str, Real)):
            raise BadItem(f"{name} is {_described(value)}; expected one number or text")
    return columns


def _label(value: object) -> Any:
    scalar = _scalar(value)
    if scalar is None or isinstance(scalar, (str, bytes, Real)):
        return scalar
    raise BadItem(
        f"label is {_described(value)}; expected one number or text (the class, not one value per"
        " class)"
    )


def _scalar(value: object) -> Any:
    """The value of an array or tensor with one element; any other value unchanged."""
    if isinstance(value, (bytes, str)):
        return value
    array = _array(value) if hasattr(value, "shape") or hasattr(value, "dtype") else None
    if array is not None and array.size == 1 and array.ndim <= 1:
        return array.reshape(()).item()
    return value


def _array(value: object) -> np.ndarray | None:
    """Convert an array, a tensor or a list of numbers to an array; None for other values."""
    if isinstance(value, np.ma.MaskedArray):
        return np.asarray(np.ma.filled(value.astype(np.float64), np.nan))
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # a tensor, without importing torch
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # numpy has no such type
            tensor = tensor.float()
        return np.asarray(tensor.numpy())
    if isinstance(value, (list, tuple)) and value:
        numbers = [_scalar(number) for number in value]
        if all(isinstance(number, Real) for number in numbers):
            return np.asarray(numbers, np.float64)
    return None


# ── images ────────────────────────────────────────────────────────────────────────────────────────


def _image(value: object, tree: Path) -> tuple[bytes | None, str | None]:
    """The bytes of an image file, and an id if the value is pixels."""
    if value is None:
        return None, None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value), None
    if isinstance(value, (str, Path)):
        return _file(Path(value), tree), None
    if isinstance(value, Image.Image):
        pixels = _pixels(value)
    else:
        array = _array(value)
        if array is None or isinstance(value, (list, tuple)):
            raise BadItem(f"image is {_described(value)}; {EXPECTED_IMAGE}")
        pixels = _bytes(_channels_last(array))
    return encoded(pixels), array_id(pixels)


def _file(path: Path, tree: Path) -> bytes:
    """Read a file in the checkout, or in the checkout that a run's tree (`.runs/<run>`) is in."""
    tree = tree.resolve()
    inside = [tree, *(parent.parent for parent in tree.parents if parent.name == ".runs")]
    for root in inside:
        file = (root / path).resolve()
        if file.is_file() and any(file.is_relative_to(place) for place in inside):
            return file.read_bytes()
    raise BadItem(
        f"image is the path {path}, which is not a file in {tree}; read the file and yield its"
        " bytes"
    )


def _pixels(image: Image.Image) -> np.ndarray:
    mode = MODES.get(image.mode)
    if image.mode == "P":
        mode = "RGBA" if "transparency" in image.info else "RGB"
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() >= 0 and values.max() < 65536:
            return values.astype(np.uint16)
    if mode is None:
        raise BadItem(f"image is a PIL image of mode {image.mode}; convert it to RGB or L")
    return np.asarray(image if mode == image.mode else image.convert(mode))


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Convert (H, W, 1), (1, H, W) or (3, H, W) to (H, W) or (H, W, 3)."""
    if not array.size:
        raise BadItem(f"image is an array of shape {array.shape}, which has no pixels")
    if array.ndim == 2:
        if 1 in array.shape:
            raise BadItem(
                f"image has the shape {array.shape}, which can be features or an image with a side"
                " of one pixel; yield features as a one-dimensional array, or a PIL image"
            )
        return array
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3), array.shape[2] in (1, 3)
        if first and last:
            raise BadItem(
                f"image has the shape {array.shape}, which can be (channels, height, width) or"
                " (height, width, channels); yield a PIL image, or a two-dimensional array"
            )
        if first or last:
            array = np.moveaxis(array, 0, 2) if first else array
            return array[:, :, 0] if array.shape[2] == 1 else array
    raise BadItem(f"image has the shape {array.shape}; {EXPECTED_IMAGE}")


def _bytes(array: np.ndarray) -> np.ndarray:
    """Convert floats from 0 to 1 to uint8."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise BadItem(f"image is an array of {array.dtype}; {EXPECTED_IMAGE}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):
        raise BadItem(
            f"image has values from {low:g} to {high:g}; expected 0 to 1 in floats, or 0 to 255 in"
            " uint8 (remove any normalisation, because Ratchet normalises images)"
        )
    return np.ascontiguousarray(np.rint(array.astype(np.float64) * 255).astype(np.uint8))


def _described(value: object) -> str:
    """Such as `a list of 3 tuples`, `a Tensor of shape (2, 2)`, `None`."""
    if value is None:
        return "None"
    kind = type(value).__name__
    if isinstance(value, (list, tuple)):
        inner = {type(part).__name__ for part in value}
        of = f"{len(value)} {inner.pop()}s" if len(inner) == 1 else f"{len(value)} values"
        return f"a {kind} of {of}"
    shape = getattr(value, "shape", None)
    return f"a {kind} of shape {tuple(shape)}" if isinstance(shape, tuple) else f"a {kind}"
