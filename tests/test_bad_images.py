"""Bad images through all stages: each is a row with a reason, and whatever validation accepts can be prepared."""

from __future__ import annotations

import io
import json
import os
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ratchet.dataset.prepared import PreparedDataset
from ratchet.dataset.spec import Spec
from ratchet.prediction import unlabeled, unlabeled_rows
from ratchet.prediction.unlabeled import Format
from ratchet.prediction.unlabeled_rows import Checks
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate
from tests.helpers.data_samples import image_file, pictures
from tests.test_images import WHOLE, bmp, exif, saved, with_chunk

pytest_plugins = ["tests.helpers.data_fixtures"]

RANDOM = np.random.default_rng(5)


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8))


GOOD = [
    with_chunk(b"tEXt", b"Raw profile type exif\0garbage"),
    with_chunk(b"eXIf", b"garbage"),
    saved(photo(1), "JPEG", exif=b"Exif\0\0garbage"),
    saved(photo(2), "WEBP", exif=b"Exif\0\0garbage"),
    saved(photo(3), "JPEG", exif=exif(6)),
    saved(Image.frombytes("LAB", (30, 20), RANDOM.integers(0, 256, 1800, np.uint8)), "TIFF"),
    saved(photo(4).convert("CMYK"), "TIFF"),
    saved(photo(5).convert("P"), "GIF"),
    saved(photo(6).convert("1")),
    saved(photo(7), "AVIF"),
]
BAD = {
    "image_null": None,
    "image_empty": b"",
    "image_corrupt": WHOLE[:300],
    "image_bomb": bmp(30_000, 30_000),
    "image_mode": saved(Image.fromarray(RANDOM.random((8, 8), np.float32)), "TIFF"),
    "image_format": b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n",
}


@pytest.mark.fault(40)
@pytest.mark.parametrize("decoded_limit_bytes", [20_000_000_000, 0])
def test_one_bad_image_is_one_row_with_a_reason_in_every_stage(
    configured, parquet, tree, decoded_limit_bytes
):
    images = [*pictures(30), *GOOD, *BAD.values()]
    labels = [str(row % 2) for row in range(len(images))]
    image_file(tree / "data/incoming/a.parquet", images, labels)
    params = configured(
        parquet(),
        validate={"max_bad_fraction": 0.5},
        prepare={"size": [28, 28], "channels": 3, "decoded_limit_bytes": decoded_limit_bytes},
    )
    for stage in (refresh, ingest, validate, prepare):
        stage.fn(params, tree)

    quarantine = pq.read_table(tree / "data/quarantine.parquet")
    assert Counter(quarantine["reason"].to_pylist()) == Counter(BAD.keys())
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["rows"] == {"in": len(images), "out": 30 + len(GOOD), "quarantined": len(BAD)}
    assert "an image format that is not read" in (tree / "reports/validation.html").read_text()

    spec = Spec.read(tree / "data/prepared/spec.json")
    assert sum(spec.counts.values()) == 30 + len(GOOD)
    for split in ("train", "val", "test"):
        prepared = PreparedDataset(tree / "data/prepared" / split)
        for row in range(len(prepared)):
            assert prepared[row][0].shape == (3, 28, 28)

    rows = unlabeled_rows.of_images([("a.png", content, None) for content in images])
    inputs, reasons = unlabeled_rows.checked(rows, spec, Checks(params.validate.max_pixels, {}))
    assert inputs.shape == (len(images), 3, 28, 28)
    assert reasons[: -len(BAD)] == [None] * (30 + len(GOOD))
    assert [str(reason).partition(":")[0] for reason in reasons[-len(BAD) :]] == list(BAD)


def test_a_file_of_images_with_broken_names_and_formats(configured, tree):
    """The same from a folder, where the suffix promises something else than the bytes are."""
    files = {
        "cat/page.jpg": b"<!DOCTYPE html><html>404</html>",
        "cat/drawing.png": BAD["image_format"],
        "cat/empty.gif": b"",
        "dog/cut.bmp": saved(photo(8), "BMP")[:500],
        "dog/png_in.jpg": saved(photo(9)),
    }
    for number, content in enumerate(pictures(20)):
        files[f"{('cat', 'dog')[number % 2]}/{number}.png"] = content
    for name, content in files.items():
        (tree / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "photos" / name).write_bytes(content)
    params = configured(
        {"type": "imagefolder", "path": "photos"}, validate={"max_bad_fraction": 0.5}
    )
    for stage in (refresh, ingest, validate, prepare):
        stage.fn(params, tree)
    reasons = Counter(pq.read_table(tree / "data/quarantine.parquet")["reason"].to_pylist())
    assert reasons == {"image_corrupt": 2, "image_format": 1, "image_empty": 1}
    assert Image.open(io.BytesIO(files["dog/png_in.jpg"])).format == "PNG"


def test_a_pipe_among_images_to_score_is_a_row_with_a_reason(tmp_path):
    """Opening it would wait for its writer."""
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in/pipe.png")
    (tmp_path / "in/ok.png").write_bytes(WHOLE)
    spec = Spec(
        kind="image", input_shape=(1, 8, 8), classes=("a", "b"), mean=(0.5,), std=(0.2,), counts={}, features=None,
        size=(8, 8), channels=1,
    )  # fmt: skip
    (rows,) = unlabeled.find(tmp_path, "in", spec, [Format()]).batches()
    assert rows.paths == ["in/ok.png", "in/pipe.png"]
    assert unlabeled_rows.checked(rows, spec, Checks(10**6, {}))[1] == [
        None,
        "unread: not a regular file",
    ]
