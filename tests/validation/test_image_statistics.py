"""What validation says about images that preparation would shrink or turn grey."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ratchet import params as parameters
from ratchet.images import decode
from ratchet.validation import image_statistics
from tasks.ingest import ingest
from tasks.refresh import refresh
from tasks.validate import validate
from tests.helpers.data_samples import REPOSITORY, image_file, png

pytest_plugins = ["tests.helpers.data_fixtures"]

ADVICE = "raise prepare.size and prepare.channels, or ignore this if it is intended"


def warned(sizes, colour, size=(28, 28), channels=1):
    prepare = parameters.load(REPOSITORY).prepare
    prepare = type(prepare)(**{**vars(prepare), "size": size, "channels": channels})
    return image_statistics.warnings(prepare, {"sizes": sizes, "colour": colour})


@pytest.mark.parametrize(
    ("sizes", "colour", "options", "expected"),
    [
        ({"28x28": 70_000}, 0, {}, None),
        ({"28x28": 600, "20x20": 400}, 0, {}, None),
        (
            {"64x64": 600},
            600,
            {},
            "600 of 600 images are larger than prepare.size 28x28 (all are 64x64, width x height) and "
            f"600 of 600 images are in colour while prepare.channels is 1; {ADVICE}",
        ),
        (
            {"64x64": 400, "80x60": 100, "28x28": 100},
            0,
            {},
            "500 of 600 images are larger than prepare.size 28x28 (most are 64x64, width x height); "
            "raise prepare.size, or ignore this if it is intended",
        ),
        (
            {f"{side}x{side + 1}": 1 for side in range(20, 220)},
            0,
            {},
            "192 of 200 images are larger than prepare.size 28x28 (from 28x29 to 219x220, width x height); "
            "raise prepare.size, or ignore this if it is intended",
        ),
        (
            {"28x28": 100},
            11,
            {},
            "11 of 100 images are in colour while prepare.channels is 1; "
            "raise prepare.channels, or ignore this if it is intended",
        ),
        ({"28x28": 99, "600x400": 1}, 1, {}, None),  # a few of them are no reason to warn
        ({"32x32": 100}, 100, {"size": (32, 32), "channels": 3}, None),
        ({"40x20": 100}, 0, {"size": (20, 40)}, None),  # prepare.size is height and width
        (
            {"20x40": 100},
            0,
            {"size": (20, 40)},
            "100 of 100 images are larger than prepare.size 40x20 (all are 20x40, width x height); "
            "raise prepare.size, or ignore this if it is intended",
        ),
        ({}, 0, {}, None),
    ],
)
def test_the_warning_about_size_and_colour(sizes, colour, options, expected):
    assert warned(sizes, colour, **options) == ([] if expected is None else [expected])


def test_colour_photos_at_the_defaults_are_warned_about_in_log_report_and_page(
    configured, parquet, tree, capsys
):
    random = np.random.default_rng(0)
    photos = [png(random.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(20)]
    image_file(tree / "data/incoming/a.parquet", photos, ["cat", "dog"] * 10)
    params = configured(parquet())
    for stage in (refresh, ingest, validate):
        stage.fn(params, tree)
    report = json.loads((tree / "reports/validation.json").read_text())
    (warning,) = [text for text in report["warnings"] if "prepare.size" in text]
    assert warning == (
        "20 of 20 images are larger than prepare.size 28x28 (all are 64x64, width x height) and "
        f"20 of 20 images are in colour while prepare.channels is 1; {ADVICE}"
    )
    assert report["colour"] == 20
    assert f"validate: warning: {warning}" in capsys.readouterr().out
    assert warning in (tree / "reports/validation.html").read_text()


def test_fashion_mnist_at_the_defaults_is_not_warned_about(sample, tree):
    for stage in (refresh, ingest, validate):
        stage.fn(sample, tree)
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["colour"] == 0 and not [
        text for text in report["warnings"] if "prepare" in text and "size" in text
    ]


def test_another_size_warns_without_decoding_again(configured, parquet, tree, monkeypatch):
    image_file(
        tree / "data/incoming/a.parquet",
        [png(np.full((40, 40), row, np.uint8)) for row in range(20)],
        [0, 1] * 10,
    )
    for size, warns in (([28, 28], True), ([40, 40], False)):
        params = configured(parquet(), prepare={"size": size})
        for stage in (refresh, ingest, validate):
            stage.fn(params, tree)
        texts = json.loads((tree / "reports/validation.json").read_text())["warnings"]
        assert any("prepare.size" in text for text in texts) is warns
        monkeypatch.setattr(
            image_statistics.images, "decode", lambda *a: pytest.fail("decoded again")
        )


def test_pictures_counts_the_good_images_upright(tmp_path):
    import pyarrow as pa

    random = np.random.default_rng(0)
    colour, grey = (
        random.integers(0, 256, (6, 4, 3), np.uint8),
        random.integers(0, 256, (6, 4), np.uint8),
    )
    encoded = [png(colour), png(grey), png(np.dstack([grey] * 3)), b"", None, png(grey, "P")]
    column = pa.chunked_array(
        [pa.array([{"bytes": image} for image in encoded], pa.struct([("bytes", pa.binary())]))]
    )
    counted = image_statistics.Pictures(len(encoded), 1000)
    assert counted.faults(column) == [None, None, None, "image_empty", "image_null", None]
    assert counted.summary() == {
        "sizes": {"4x6": 4},
        "modes": {"RGB": 2, "L": 1, "P": 1},
        "colour": 1,
    }
    assert decode(encoded[0]).image.size == (4, 6)
