"""What a Dataset of yours may yield, and what is refused in one line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ratchet.errors import CorruptData
from ratchet.sources import items
from ratchet.sources.base import encoded

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (5, 7), np.uint8)
RGB = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
PNG = encoded(RGB)


def pixels(row: items.Row) -> np.ndarray:
    assert row.image is not None
    return np.asarray(Image.open(io.BytesIO(row.image)))


def one(item: object, names: list[str] | None = None, tree: Path = Path()) -> items.Row:
    return items.row(item, names, tree, "Mine, row 0")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (GREY, GREY),
        (GREY[:, :, None], GREY),
        (GREY[None], GREY),
        (RGB, RGB),
        (RGB.transpose(2, 0, 1), RGB),
        (np.asfortranarray(RGB), RGB),
        (torch.from_numpy(GREY), GREY),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
        (torch.from_numpy(RGB), RGB),
        (torch.from_numpy(GREY)[None], GREY),
        (torch.from_numpy(RGB).permute(2, 0, 1).float() / 255, RGB),  # ToTensor
        (torch.from_numpy(RGB).permute(2, 0, 1).double() / 255, RGB),
        ((torch.from_numpy(GREY)[None].float() / 255).requires_grad_(), GREY),
        (RGB.astype(np.float32) / 255, RGB),  # pytorch/vision#415
        (GREY.astype(np.float16) / np.float16(255), None),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), GREY),
        (
            Image.fromarray(RGB).convert("P"),
            np.asarray(Image.fromarray(RGB).convert("P").convert("RGB")),
        ),
        (Image.fromarray(GREY > 99), (GREY > 99) * np.uint8(255)),
        (Image.fromarray(RGB).convert("CMYK"), RGB),
        (Image.fromarray(RGB).convert("RGBA"), np.dstack([RGB, np.full((5, 7), 255, np.uint8)])),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY.astype(np.uint16) * 257),
        (Image.fromarray(GREY.astype(np.int32)), GREY),
        (PNG, RGB),
        (bytearray(PNG), RGB),
    ],
)
def test_images_keep_their_pixels(value: Any, expected: np.ndarray | None) -> None:
    row = one((value, 1))
    assert row.is_image
    if expected is not None:
        assert np.array_equal(pixels(row), expected)
    else:
        assert np.abs(pixels(row).astype(int) - GREY).max() <= 1


def test_totensor_comes_back_exactly() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(pixels(one((torch.from_numpy(every)[None].float() / 255, 0))), every)


def test_equal_pixels_have_one_id_whatever_holds_them() -> None:
    values = [RGB, torch.from_numpy(RGB), RGB.transpose(2, 0, 1), Image.fromarray(RGB), RGB / 255]
    assert len({one((value, 0)).id for value in values}) == 1


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (3, 3), (np.int64(3), 3), (np.uint8(3), 3), (torch.tensor(3), 3), (torch.tensor([3]), 3), (np.array([3]), 3),
        ("cat", "cat"), (np.str_("cat"), "cat"), (True, True), (np.bool_(False), False), (torch.tensor(1.0), 1.0),
        (2.0, 2.0), (None, None), (b"cat", b"cat"), (torch.tensor(True), True),
    ],
)  # fmt: skip
def test_labels(label: Any, expected: Any) -> None:
    row = one((GREY, label))
    assert row.label == expected and type(row.label) in (type(expected), type(label))


@pytest.mark.parametrize(
    ("item", "names", "expected"),
    [
        ((torch.tensor([1.5, 2.0]), 0), None, {"x0": 1.5, "x1": 2.0}),
        ((np.array([1, 2]), 0), ["a", "b"], {"a": 1.0, "b": 2.0}),
        (([1, 2.5], 0), None, {"x0": 1.0, "x1": 2.5}),
        (((1, 2), "yes"), ["a", "b"], {"a": 1.0, "b": 2.0}),
        ([torch.tensor([1.0]), torch.tensor([0.0])], None, {"x0": 1.0}),
        ((torch.tensor([True, False]), 0), None, {"x0": 1.0, "x1": 0.0}),
        (([torch.tensor(1.0), torch.tensor(2.0)], 0), None, {"x0": 1.0, "x1": 2.0}),
        (({"age": 3, "height": np.float32(0.5)}, 0), None, {"age": 3, "height": 0.5}),
        ({"label": 0, "age": torch.tensor(3), "sex": "m"}, None, {"age": 3, "sex": "m"}),
        ((torch.tensor([1.5], dtype=torch.bfloat16), 0), None, {"x0": 1.5}),
    ],
)
def test_features(item: Any, names: list[str] | None, expected: dict[str, Any]) -> None:
    row = one(item, names)
    assert not row.is_image and row.features == expected


def test_a_masked_value_is_missing() -> None:
    row = one((np.ma.array([1.0, 2.0], mask=[0, 1]), 0))
    assert row.features["x0"] == 1.0 and np.isnan(row.features["x1"])


def test_a_dict_with_an_image_keeps_its_other_columns() -> None:
    row = one({"image": Image.fromarray(RGB), "label": "cat", "camera": "left", "split": "test"})
    assert row.is_image and row.others == {"camera": "left", "split": "test"}


def test_a_path_is_read_if_it_is_in_the_checkout(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "data").mkdir(parents=True)
    (tree / "data/x.png").write_bytes(PNG)
    (tmp_path / "y.png").write_bytes(PNG)
    for path in ("data/x.png", Path("data/x.png"), str(tree / "data/x.png")):
        assert one((path, 0), tree=tree).image == PNG
        assert one((path, 0), tree=tree / ".runs/20260101").image == PNG, "from a run's tree too"
    (tree / "link.png").symlink_to(tmp_path / "y.png")
    for path in ("../y.png", str(tmp_path / "y.png"), "link.png", "data", "none.png", ""):
        with pytest.raises(
            CorruptData, match=r"Mine, row 0: image is the path .*, which is not a file in "
        ):
            one((path, 0), tree=tree)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            ([(0, 0), (1, 1), (2, 2)], 0),
            r"image is a list of 3 tuples; expected a PIL image, the bytes of an image fi",
        ),
        ((GREY, 1, 2), r"the item is a tuple of 3 values; expected \(image, label\)"),
        (7, r"the item is a int; expected \(image, label\)"),
        (
            {"picture": 1},
            r"the item has the keys picture; expected .* or a dict with the key label",
        ),
        ({"label": 1}, r"the item has a label and nothing to predict it from"),
        (
            (np.zeros((3, 4, 3), np.uint8), 0),
            r"shape \(3, 4, 3\), which can be \(channels, height, width\) or \(height",
        ),
        ((torch.zeros(3, 3, 3, dtype=torch.uint8), 0), r"shape \(3, 3, 3\), which can be"),
        ((torch.zeros(1, 9, 1), 0), r"which can be"),
        (
            (torch.ones(1, 10), 0),
            r"shape \(1, 10\), which can be features or an image with a side of one pixel",
        ),
        ((np.ones((10, 1)), 0), r"shape \(10, 1\), which can be features or"),
        (
            ({"label": 1.0, "a": 2.0}, 1),
            r"the item has a label of its own and one among its features",
        ),
        (
            ({"0": 1.0, 0: 2.0}, 1),
            r"the item has the keys '0', 0, 'label', of which two have the same name",
        ),
        ((torch.ones(3).to_sparse(), 1), r"TypeError: can't convert Sparse layout tensor"),
        (
            (
                Image.open(
                    io.BytesIO(encoded(RANDOM.integers(0, 256, (99, 99, 3), np.uint8))[:3000])
                ),
                1,
            ),
            r"OSError: image file is trun",
        ),
        ((np.zeros((5, 5, 4), np.uint8), 0), r"image has the shape \(5, 5, 4\); expected"),
        ((np.zeros((2, 3, 5, 5), np.uint8), 0), r"image has the shape \(2, 3, 5, 5\)"),
        ((np.zeros((0, 5), np.uint8), 0), r"which has no pixels"),
        (
            (RGB.astype(np.float32), 0),
            r"image has values from \d to 2\d\d; expected 0 to 1 in floats, or 0 to 255 in u",
        ),
        ((torch.randn(3, 8, 8), 0), r"remove any normalisation, because Ratchet"),
        ((np.full((4, 4), np.nan), 0), r"image has values from nan to nan"),
        ((RGB.astype(np.int64), 0), r"image is an array of int64; expected"),
        ((GREY > 3, 0), r"image is an array of bool"),
        (
            (Image.fromarray(GREY.astype(np.float32)), 0),
            r"a PIL image of mode F; convert it to RGB or L",
        ),
        ((object(), 0), r"image is a object; expected"),
        (
            (GREY, torch.tensor([0, 1])),
            r"label is a Tensor of shape \(2,\); expected one number or text",
        ),
        ((GREY, [1]), r"label is a list of 1 ints"),
        ((GREY, {"a": 1}), r"label is a dict"),
        (({"a": torch.zeros(3)}, 0), r"a is a Tensor of shape \(3,\); expected one number or text"),
        ((np.array(["a", "b"]), 0), r"the features are <U1; expected numbers"),
        ((np.zeros(0), 0), r"there are 0 features"),
    ],
)
def test_what_cannot_be_read_is_one_line(item: Any, message: str) -> None:
    with pytest.raises(CorruptData, match=rf"^Mine, row 0: .*{message}") as raised:
        one(item)
    assert "\n" not in str(raised.value)


def test_wrong_feature_names_are_one_line() -> None:
    with pytest.raises(
        CorruptData, match=r"there are 3 features and 2 feature_names \(a, b, \.\.\.\)"
    ):
        one(([1, 2, 3], 0), ["a", "b"])
