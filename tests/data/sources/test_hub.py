"""The Hugging Face Hub, with its real client."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.data.spec import Spec
from tests.data.hub import COMMIT, REPOSITORY, hub
from tests.data.samples import image_file, png

pytest_plugins = ["tests.data.fixtures"]

RUN = """
import sys
from pathlib import Path
from tasks import params
from tasks.errors import RatchetError
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate
tree = Path(sys.argv[1])
try:
    refresh.fn(params.load(tree), tree)
    for stage in (ingest, validate, prepare):
        stage.fn(params.load(tree), tree)
except RatchetError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def photos():
    """Many sizes and modes, and a GIF's frames, with words as labels, as people upload them."""
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (40, 30, 3), np.uint8)
    gif = io.BytesIO()
    from PIL import Image

    frames = [Image.fromarray(random.integers(0, 256, (9, 7), np.uint8)) for _ in range(3)]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    kinds = [
        png(colour),
        png(colour, "RGBA"),
        png(colour, "P"),
        png(colour, "L"),
        png(colour, kind="JPEG"),
        gif.getvalue(),
    ]
    return kinds, ["nailong", "nailong", "other", "nailong", "other", "nailong"]


@pytest.fixture
def served(tmp_path):
    images, labels = photos()
    file = image_file(tmp_path / "train.parquet", images, labels)
    return (
        {"README.md": b"---\nlicense: mit\n---\n", "data/train-00000-of-00001.parquet": file.read_bytes()},
        images,
        labels,
    )


def ingested(tree, source, endpoint, tmp_path):
    from ruamel.yaml import YAML

    raw = YAML(typ="safe").load((tree / "params.yaml").read_text())
    raw["ingest"]["sources"] = [source]
    raw["run"]["workers"] = 1
    raw["prepare"].update(size=[16, 16], channels=3, val_fraction=0.0, test_fraction=0.0)
    YAML().dump(raw, tree / "params.yaml")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", RUN, str(tree)],
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub-home"), "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


SOURCE = {
    "type": "huggingface",
    "repository": REPOSITORY,
    "config": None,
    "revision": None,
    "splits": {"train": "train"},
    "label": "label",
    "image": "image",
    "features": None,
}


def test_rows_come_as_they_are_at_a_pinned_commit(tree, served, tmp_path):
    files, images, labels = served
    with hub(files) as endpoint:
        done = ingested(tree, SOURCE, endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tree / "source.lock").read_text())["sources"]
    assert entry["resolved"] == COMMIT and entry["licence"] == "mit"
    table = pq.read_table(tree / "data/raw/shard-00000.parquet")
    assert [image["bytes"] for image in table["image"].to_pylist()] == images
    assert table["label"].to_pylist() == labels and set(table["split"].to_pylist()) == {"train"}
    info = json.loads((tree / "data/raw/dataset.json").read_text())
    assert info["label_type"] == "string" and info["licence"] == "mit"
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["modes"] == {"L": 1, "P": 2, "RGB": 2, "RGBA": 1} and report["sizes"] == {"30x40": 5, "7x9": 1}
    spec = Spec.read(tree / "data/prepared/spec.json")
    assert spec.classes == ("nailong", "other") and np.load(tree / "data/prepared/train/inputs.npy").shape == (
        6,
        3,
        16,
        16,
    )


@pytest.mark.long  # the client waits between its own tries
def test_8_a_cut_download_is_healed_by_the_next(tree, served, tmp_path):
    files, images, _ = served
    name = "data/train-00000-of-00001.parquet"
    cut = {name}
    with hub(files, cut) as endpoint:
        done = ingested(tree, SOURCE, endpoint, tmp_path)
        assert "Unreachable: the Hub does not answer" in done.stderr, done.stderr
        assert not (tree / "data/raw").exists()
        cut.clear()
        done = ingested(tree, SOURCE, endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tree / "data/raw/shard-00000.parquet")
    assert [image["bytes"] for image in table["image"].to_pylist()] == images


def test_what_the_hub_lacks_and_a_hub_that_is_down_are_told_apart(tree, served, tmp_path):
    with hub(served[0]) as endpoint:
        done = ingested(tree, {**SOURCE, "repository": "friends/none"}, endpoint, tmp_path)
    assert done.stderr.startswith("SourceMissing: ingest.sources: the Hub has no friends/none at its newest commit")
    done = ingested(tree, SOURCE, "http://127.0.0.1:9", tmp_path)
    assert done.stderr.startswith("Unreachable: the Hub does not answer for friends/toys")
