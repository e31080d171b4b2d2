"""Every type of source on small files in its own format, down to the shards."""

from __future__ import annotations

import functools
import http.server
import io
import json
import pickle
import shutil
import struct
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ratchet.errors import CorruptData, ParamsError, SourceChanged, SourceMissing, Unreachable
from ratchet.shards.shards import Shards
from tasks.ingest import ingest
from tasks.refresh import refresh
from tests.helpers.data_samples import image_file, pictures, png

pytest_plugins = ["tests.helpers.data_fixtures"]


@pytest.fixture
def ingested(configured, tree):
    """Ingest sources; returns `dataset.json` and all rows."""

    def run(*sources):
        params = configured(*sources)
        refresh.fn(params, tree)
        ingest.fn(params, tree)
        shards = Shards.open(tree / "data/raw")
        tables = [table for shard in shards for table in shard.batches()]
        return shards.info, pa.concat_tables(tables, promote_options="default")

    return run


def decoded(image):
    return np.asarray(Image.open(io.BytesIO(image["bytes"])))


def vision(name, **arguments):
    return {"type": "torchvision", "name": name, "root": None, "arguments": arguments}


# ── torchvision ───────────────────────────────────────────────────────────────────────────────────


def test_cifar10(ingested, tree, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tree / "data/downloads/CIFAR10/cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072), np.uint8)
    (folder / "data_batch_1").write_bytes(
        pickle.dumps({"data": pixels[:4], "labels": [0, 1, 2, 3]})
    )
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels[4:], "labels": [1, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for attribute, value in {
        "train_list": [["data_batch_1", None]],
        "test_list": [["test_batch", None]],
    }.items():
        monkeypatch.setattr(CIFAR10, attribute, value)
    monkeypatch.setitem(CIFAR10.meta, "md5", None)
    info, rows = ingested(vision("CIFAR10"))
    assert info["classes"] == list("abcdefghij") and rows["label"].to_pylist() == list("abcdbj")
    assert rows["split"].to_pylist() == ["train"] * 4 + ["test"] * 2
    assert np.array_equal(
        decoded(rows["image"][4].as_py()), pixels[4].reshape(3, 32, 32).transpose(1, 2, 0)
    )


def test_emnist_with_an_argument_of_its_own(ingested, tree):
    raw = tree / "data/downloads/EMNIST/raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    for split in ("train", "test"):
        (raw / f"emnist-digits-{split}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, 3, 28, 28) + pixels.tobytes()
        )
        (raw / f"emnist-digits-{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, 3) + bytes([7, 0, 9])
        )
    info, rows = ingested(vision("EMNIST", split="digits"))
    assert (
        info["classes"] == list("0123456789") and rows["label"].to_pylist() == ["7", "0", "9"] * 2
    )


def test_svhn(ingested, tree, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    folder = tree / "data/downloads/SVHN"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), np.uint8)
    for split in ("train", "test"):
        savemat(folder / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[1], [10], [3], [9]])})
        monkeypatch.setitem(SVHN.split_list, split, [None, f"{split}_32x32.mat", None])
    info, rows = ingested(vision("SVHN"))
    assert info["classes"] is None and rows["label"].to_pylist() == ["1", "0", "3", "9"] * 2
    assert np.array_equal(decoded(rows["image"][1].as_py()), pixels[..., 1])


def test_a_data_set_that_torchvision_lacks(ingested):
    with pytest.raises(ParamsError, match="torchvision has no data set 'Nothing'"):
        ingested(vision("Nothing"))


# ── parquet ───────────────────────────────────────────────────────────────────────────────────────


def test_plain_bytes_and_the_names_of_class_labels(ingested, parquet, tree):
    images = pictures(3)
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {"image": pa.array(images, pa.large_binary()), "label": pa.array([0, 1, 1], pa.int8())}
    )
    (tree / "data/incoming").mkdir(parents=True)
    named = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(named, tree / "data/incoming/a.parquet")
    info, rows = ingested(parquet("data/incoming/a.parquet"))
    assert info["classes"] == ["cat", "dog"] and rows["label"].to_pylist() == ["cat", "dog", "dog"]
    assert [image["bytes"] for image in rows["image"].to_pylist()] == images


def test_hive_partitions_give_columns(ingested, parquet, tree):
    for label, seed in (("cat", 0), ("dog", 1)):
        for split in ("train", "test"):
            folder = tree / f"data/pets/label={label}/split={split}"
            folder.mkdir(parents=True)
            images = [
                {"bytes": image, "path": None}
                for image in pictures(2, seed * 2 + (split == "test"))
            ]
            pq.write_table(pa.table({"image": images}), folder / "part.parquet")
    _, rows = ingested(parquet("data/pets", split="split"))
    assert rows["label"].to_pylist() == ["cat"] * 4 + ["dog"] * 4
    assert rows["split"].to_pylist() == ["test", "test", "train", "train"] * 2


@pytest.fixture
def site(tmp_path):
    """A web server on loopback; what its `cut` names breaks off half way."""
    cut: set[str] = set()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def copyfile(self, source, target):
            body = source.read()
            target.write(body[: len(body) // 2] if self.path.strip("/") in cut else body)
            self.close_connection = True

        def log_message(self, *_): ...

    (tmp_path / "site").mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "site")
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "site", f"http://127.0.0.1:{server.server_address[1]}", cut
    server.shutdown()
    server.server_close()


@pytest.mark.fault(8)
def test_a_file_behind_a_url_is_whole_or_not_there(ingested, parquet, site, tree, configured):
    folder, address, cut = site
    image_file(folder / "a.parquet", pictures(40, side=60), [0, 1] * 20)
    cut.add("a.parquet")
    with pytest.raises(Unreachable, match=r"a.parquet does not answer: .*; try again"):
        ingested(parquet(f"{address}/a.parquet"))
    assert not (tree / "source.lock").exists() and not list(
        (tree / "data/downloads/urls").iterdir()
    )
    cut.clear()
    _, rows = ingested(parquet(f"{address}/a.parquet"))
    assert len(rows) == 40
    with pytest.raises(SourceMissing, match=r"nothing at http://.*/b.parquet"):
        ingested(parquet(f"{address}/b.parquet"))
    next((tree / "data/downloads/urls").iterdir()).unlink()
    shutil.rmtree(tree / ".memo")
    image_file(folder / "a.parquet", pictures(3), [0, 1, 1])
    with pytest.raises(SourceChanged, match=r"a.parquet at http://.* is not what source.lock pins"):
        ingest.fn(configured(parquet(f"{address}/a.parquet")), tree)


@pytest.mark.fault(34)
def test_credentials_in_a_url_are_refused_unshown(ingested, parquet):
    with pytest.raises(ParamsError, match="a URL holds a user or password") as raised:
        ingested(parquet("https://me:hunter2@example.org/a.parquet"))
    assert "hunter2" not in str(raised.value)


# ── folders, CSV, custom ──────────────────────────────────────────────────────────────────────────


def test_imagefolder_keeps_the_bytes_of_the_files(ingested, tree):
    images = pictures(4)
    for split, label, image in zip(
        ["train", "train", "test", "test"], ["cat", "dog"] * 2, images, strict=True
    ):
        file = tree / f"pets/{split}/{label}/1.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(image)
    info, rows = ingested({"type": "imagefolder", "path": "pets"})
    assert rows["label"].to_pylist() == ["cat", "dog", "cat", "dog"] and info["classes"] is None
    assert rows["split"].to_pylist() == ["test", "test", "train", "train"]
    assert rows["image"][0].as_py() == {"bytes": images[2], "path": "test/cat/1.png"}


def test_a_hostile_folder_stays_inside_itself(ingested, tree, tmp_path):
    (tmp_path / "secret.png").write_bytes(pictures(1)[0])
    pets = tree / "pets" / "cat"
    pets.mkdir(parents=True)
    (pets / "out.png").symlink_to(tmp_path / "secret.png")
    (pets / "round").symlink_to(pets)
    (pets / "empty.png").touch()
    (pets / ("x" * 250 + ".png")).write_bytes(pictures(1)[0])
    (pets / "notes.jpg").write_text("no picture")
    (pets / "run.sh").write_text("exit 1")
    _, rows = ingested({"type": "imagefolder", "path": "pets"})
    assert sorted(image["path"][:9] for image in rows["image"].to_pylist()) == [
        "cat/empty",
        "cat/notes",
        "cat/xxxxx",
    ]


def test_csv(ingested, tree):
    (tree / "data").mkdir()
    (tree / "data/flowers.csv").write_text("sepal,petal,name\n1,2.5,iris\n,3,rose\n")
    info, rows = ingested(
        {"type": "csv", "path": "data/*.csv", "label": "name", "features": ["sepal", "petal"]}
    )
    assert info["kind"] == "features" and info["features"] == ["sepal", "petal"]
    assert rows["feature:sepal"].to_pylist() == [1.0, None] and rows["label"].to_pylist() == [
        "iris",
        "rose",
    ]
    with pytest.raises(
        CorruptData, match=r"flowers.csv has no column width; it has name, petal, sepal"
    ):
        ingested(
            {"type": "csv", "path": "data/flowers.csv", "label": "name", "features": ["width"]}
        )


def test_the_example_in_custom(ingested, configured, tree):
    source = {
        "type": "custom",
        "source": "custom.sources.blobs:Blobs",
        "arguments": {"rows": 250, "seed": 0},
    }
    info, rows = ingested(source)
    assert (
        len(rows) == 250 and info["classes"] == ["left", "right"] and info["licence"] == "CC0-1.0"
    )
    changed = r'sources.0.arguments: {"rows": 250, "seed": 0} → {"rows": 9, "seed": 0}; run `ratchet refresh`'
    with pytest.raises(SourceChanged, match=changed):
        ingest.fn(configured({**source, "arguments": {"rows": 9, "seed": 0}}), tree)
    with pytest.raises(ParamsError, match=r"no class custom.sources.blobs:Cubes"):
        ingested({**source, "source": "custom.sources.blobs:Cubes"})


def test_sources_are_joined_under_one_schema(ingested, parquet, tree):
    file = tree / "pets/cat/1.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(png(np.zeros((4, 4), np.uint8)))
    image_file(tree / "data/incoming/a.parquet", pictures(2), ["dog", "cat"])
    info, rows = ingested(parquet(), {"type": "imagefolder", "path": "pets"})
    assert rows["label"].to_pylist() == ["dog", "cat", "cat"]
    assert [shard["source"] for shard in info["shards"]] == [0, 1]
