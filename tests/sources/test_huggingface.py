"""The Hugging Face Hub, with its real client."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request

import numpy as np
import pyarrow.parquet as pq
import pytest

from ratchet.dataset.spec import Spec
from ratchet.files import sha256
from tests.helpers.data_samples import image_file, png
from tests.helpers.hub import REPOSITORY, commit, hub

pytest_plugins = ["tests.helpers.data_fixtures"]

RUN = """
import sys
from pathlib import Path
from ratchet import params
from ratchet.errors import RatchetError
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate
tree = Path(sys.argv[1])
try:
    steps = {step.fn.__name__: step for step in (refresh, ingest, validate, prepare)}
    for name in sys.argv[2:] or steps:
        steps[name].fn(params.load(tree), tree)
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
        {
            "README.md": b"---\nlicense: mit\n---\n",
            "data/train-00000-of-00001.parquet": file.read_bytes(),
        },
        images,
        labels,
    )


def ingested(tree, source, endpoint, tmp_path, *steps, **environment):
    from ruamel.yaml import YAML

    raw = YAML(typ="safe").load((tree / "params.yaml").read_text())
    raw["ingest"]["sources"] = [source]
    raw["run"]["workers"] = 1
    raw["prepare"].update(size=[16, 16], channels=3, val_fraction=0.0, test_fraction=0.0)
    YAML().dump(raw, tree / "params.yaml")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", RUN, str(tree), *steps],
        env={
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "hub-home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        },
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
    assert entry["resolved"] == commit(files) and entry["licence"] == "mit"
    table = pq.read_table(tree / "data/raw/shard-00000.parquet")
    assert [image["bytes"] for image in table["image"].to_pylist()] == images
    assert table["label"].to_pylist() == labels and set(table["split"].to_pylist()) == {"train"}
    info = json.loads((tree / "data/raw/dataset.json").read_text())
    assert info["classes"] is None and info["licence"] == "mit"
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["modes"] == {"L": 1, "P": 2, "RGB": 2, "RGBA": 1} and report["sizes"] == {
        "30x40": 5,
        "7x9": 1,
    }
    spec = Spec.read(tree / "data/prepared/spec.json")
    assert spec.classes == ("nailong", "other") and np.load(
        tree / "data/prepared/train/inputs.npy"
    ).shape == (
        6,
        3,
        16,
        16,
    )


def test_a_new_commit_costs_what_is_new_in_it(tree, served, tmp_path):
    files, _, _ = served
    files["data/train-00000-of-00002.parquet"] = files.pop("data/train-00000-of-00001.parquet")
    images, labels = (
        [png(np.full((20, 20), level, np.uint8)) for level in (10, 200)],
        ["other", "nailong"],
    )
    with hub(files) as endpoint:
        assert ingested(tree, SOURCE, endpoint, tmp_path).returncode == 0
        files["data/train-00001-of-00002.parquet"] = image_file(
            tmp_path / "more", images, labels
        ).read_bytes()
        before = {
            path: path.stat().st_mtime_ns for path in (tree / ".memo").glob("*/*/manifest.json")
        }
        done = ingested(tree, SOURCE, endpoint, tmp_path)
        assert done.returncode == 0, done.stderr
        with urllib.request.urlopen(f"{endpoint}/fetched") as answer:
            fetched = json.load(answer)
    assert [name for name in fetched if name.endswith(".parquet")] == [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ]
    after = {path: path.stat().st_mtime_ns for path in (tree / ".memo").glob("*/*/manifest.json")}
    assert (
        before.items() <= after.items() and len(after) == 2 * len(before) == 6
    )  # ingest, validate, prepare
    (entry,) = json.loads((tree / "source.lock").read_text())["sources"]
    assert entry["resolved"] == commit(files) and [file["split"] for file in entry["files"]] == [
        "train",
        "train",
    ]


def test_files_that_are_no_parquet_are_read_by_the_client(tree, tmp_path):
    lines = [
        {"label": label, "width": width}
        for label, width in (("cat", 1.5), ("dog", 2.5), ("cat", 3.5))
    ]
    source = {**SOURCE, "image": None, "features": ["width"]}
    with hub({"data/train.jsonl": "\n".join(map(json.dumps, lines)).encode()}) as endpoint:
        done = ingested(tree, source, endpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tree / "data/raw/shard-00000.parquet")
    assert table["label"].to_pylist() == ["cat", "dog", "cat"] and table[
        "feature:width"
    ].to_pylist() == [1.5, 2.5, 3.5]


@pytest.mark.fault(34)
def test_a_token_comes_from_the_environment_and_goes_nowhere(tree, served, tmp_path):
    with hub(served[0], token="hf_only_the_hub_may_see_this") as endpoint:
        done = ingested(tree, SOURCE, endpoint, tmp_path)
        assert done.stderr.startswith(
            "SourceMissing: ingest.sources: the Hub has no friends/toys at its newest commit"
        )
        assert "set HF_TOKEN" in done.stderr
        done = ingested(tree, SOURCE, endpoint, tmp_path, HF_TOKEN="hf_only_the_hub_may_see_this")
    assert done.returncode == 0, done.stderr
    assert "hf_only" not in done.stdout + done.stderr
    assert not [
        file for file in tree.rglob("*") if file.is_file() and b"hf_only" in file.read_bytes()
    ]


def test_a_split_that_the_hub_lacks_is_named(tree, served, tmp_path):
    with hub(served[0]) as endpoint:
        done = ingested(tree, {**SOURCE, "splits": {"train": "training"}}, endpoint, tmp_path)
    assert (
        "CorruptData: friends/toys has no split training; it has train; correct ingest.sources"
        in done.stderr
    )


@pytest.mark.fault(8)
@pytest.mark.long  # the client waits between its own tries
def test_a_cut_download_is_healed_by_the_next(tree, served, tmp_path):
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
    assert done.stderr.startswith(
        "SourceMissing: ingest.sources: the Hub has no friends/none at its newest commit"
    )
    done = ingested(tree, SOURCE, "http://127.0.0.1:9", tmp_path)
    assert done.stderr.startswith("Unreachable: the Hub does not answer for friends/toys")


TWO_LABELS = """---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype: {class_label: {names: {'0': cat, '1': dog}}}
  - name: coat
    dtype: {class_label: {names: {'0': short, '1': long}}}
  splits:
  - name: train
    num_examples: 6
---
"""


def test_ingest_alone_fetches_the_pinned_commit_and_reads_it_as_the_params_say(
    tree, served, tmp_path
):
    files, images, _ = served
    path = image_file(tmp_path / "two.parquet", images, [0, 1, 0, 1, 0, 1], coat=[1, 1, 1, 0, 0, 0])
    name = "data/train-00000-of-00001.parquet"
    files = {"README.md": TWO_LABELS.encode(), name: path.read_bytes()}
    with hub(files) as endpoint:
        done = ingested(tree, SOURCE, endpoint, tmp_path, "refresh", "ingest")
        assert done.returncode == 0, done.stderr
        lock = (tree / "source.lock").read_bytes()
        shards = {file.name: sha256(file) for file in (tree / "data/raw").iterdir()}
        for folder in ("data", ".memo"):  # as in a fresh clone
            shutil.rmtree(tree / folder)
        done = ingested(tree, SOURCE, endpoint, tmp_path, "ingest")
        assert done.returncode == 0, done.stderr
        assert {file.name: sha256(file) for file in (tree / "data/raw").iterdir()} == shards

        (blob,) = (tree / "data/downloads/huggingface").glob(
            "datasets--friends--toys/snapshots/*/data/*"
        )
        content = blob.read_bytes()
        blob.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # damaged here
        shutil.rmtree(tree / ".memo")
        done = ingested(tree, {**SOURCE, "label": "coat"}, endpoint, tmp_path, "ingest")
        assert done.returncode == 0, done.stderr
        assert blob.read_bytes() == content
    info = json.loads((tree / "data/raw/dataset.json").read_text())
    assert info["classes"] == ["short", "long"]
    assert (tree / "source.lock").read_bytes() == lock


@pytest.mark.long  # the client tries for 23 s
def test_ingest_without_the_hub_is_unreachable(tree, served, tmp_path):
    with hub(served[0]) as endpoint:
        assert ingested(tree, SOURCE, endpoint, tmp_path, "refresh").returncode == 0
    done = ingested(tree, SOURCE, "http://127.0.0.1:9", tmp_path, "ingest")
    assert "Unreachable: the Hub does not answer for friends/toys" in done.stderr


def test_ingest_refuses_another_revision_than_the_pinned_one(tree, served, tmp_path):
    with hub(served[0]) as endpoint:
        assert ingested(tree, SOURCE, endpoint, tmp_path, "refresh").returncode == 0
    done = ingested(tree, {**SOURCE, "revision": "v2"}, "http://127.0.0.1:9", tmp_path, "ingest")
    expected = "SourceChanged: params.yaml no longer asks for what source.lock pins: ingest.sources.0.revision: null → v2;"
    assert done.stderr.startswith(expected)
