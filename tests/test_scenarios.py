"""What a new user does, from a fresh clone to a version in service, a prediction and a rollback.

Each scenario starts with a clone, a data set and the edits to `params.yaml` that the data need, and
then types at most ten commands. Nothing is simulated: the data set of the Hub comes from a server
on loopback through the real client.

The whole scenarios are long; beside them, the stages alone learn the same data in this process.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from ratchet.params import Params
from tasks.evaluate import evaluate
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.train import train
from tasks.validate import validate
from tests.conftest import Checkout, fresh
from tests.helpers.hub import REPOSITORY, hub

pytest_plugins = ["tests.helpers.data_fixtures"]

SMALL: dict[str, dict[str, Any]] = {  # what every small data set sets
    "gate": {"on_undecided": "estimate"},
    "run": {"workers": 1},
    "train": {"threads": 1, "batch_size": 32, "epochs": 12, "precision": "float32"},
}


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    """A fresh clone, in a folder with a space and an umlaut."""
    return fresh(tmp_path / "mein Prüfstand")


def edit(checkout: Checkout, source: dict[str, Any], **sections: dict[str, Any]) -> None:
    """Edit params.yaml as a person would: one source, and values by section."""
    yaml = YAML()
    file = checkout.path / "params.yaml"
    content = yaml.load(file.read_text(encoding="utf-8"))
    content["ingest"]["sources"] = [source]
    for values in (SMALL, sections):
        for section, changes in values.items():
            content[section].update(changes)
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(content, stream)
    checkout.commit("Use my own data")


def live(
    checkout: Checkout, incoming: str, **environment: str
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """First version, second version, prediction, rollback: six commands after the commit.

    Returns:
        what the two runs printed, and the scores of `incoming` by the second version.
    """
    first = checkout.json("train", **environment)
    second = checkout.json("train", "--set", "train.seed=1", **environment)
    assert (first["name"], first["serves"]) == ("Promoted", "v1.0.0"), first["reason"]
    assert (second["name"], second["serves"]) == ("Promoted", "v1.0.1"), second["reason"]
    checkout.ratchet("predict", incoming, "--output", "scores.parquet", **environment)
    checkout.ratchet("rollback", "--reason", "a rehearsal")
    assert checkout.json("history", "prod")[-1]["version"] == "v1.0.0"
    assert checkout.json("verify", "--all") == []
    return [first, second], pl.read_parquet(checkout.path / "scores.parquet")


def shape(kind: str, random: np.random.Generator, side: int = 64) -> Image.Image:
    """A bright circle or square at a random place on a dim, noisy, coloured ground."""
    ground = Image.fromarray(random.integers(0, 90, (side, side, 3), np.uint8))
    x, y = random.integers(8, side - 32, 2)
    draw = ImageDraw.Draw(ground)
    place, colour = (x, y, x + 24, y + 24), tuple(random.integers(150, 256, 3).tolist())
    if kind == "circle":
        draw.ellipse(place, fill=colour)
    else:
        draw.rectangle((x, y + 8, x + 24, y + 14), fill=colour)
    return ground


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


Data = tuple[dict[str, Any], dict[str, Any]]  # a source, and values by section of params.yaml


def cells(tree: Path) -> Data:
    from sklearn.datasets import load_breast_cancer

    cancer = load_breast_cancer(as_frame=True)
    frame = cancer.frame.iloc[:, :10]
    frame["diagnosis"] = cancer.frame["target"].map({0: "malignant", 1: "benign"})
    frame.to_csv(tree / "data/incoming/cells.csv", index=False)
    source = {"type": "csv", "path": "data/incoming/cells.csv", "label": "diagnosis"}
    return {**source, "features": list(frame.columns[:10])}, {
        "model": {"name": "simple_net"},
        "train": {"criterion": {"name": "BCELoss", "arguments": {}}, "epochs": 40, "lr": 0.01},
    }


@pytest.mark.long
def test_a_csv_with_ten_features(project: Checkout) -> None:
    source, sections = cells(project.path)
    edit(project, source, **sections)
    runs, scores = live(project, "data/incoming/cells.csv")
    assert runs[0]["accuracy"] > 0.88
    assert scores["prediction"].to_list()[0] == "malignant"
    diagnoses = pl.read_csv(project.path / "data/incoming/cells.csv")["diagnosis"]
    right = scores["prediction"] == diagnoses
    assert len(scores) == 569
    assert right.mean() > 0.88


def photos(tree: Path) -> Data:
    random = np.random.default_rng(0)
    root = tree / "data/incoming/photos"
    for split, count in (("train", 60), ("valid", 20), ("test", 40)):
        for kind in ("circle", "bar"):
            for number in range(count):
                file = root / split / kind / f"{number:03}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(encoded(shape(kind, random), "JPEG"))
    (root / "README.roboflow.txt").write_text("exported")
    return {"type": "imagefolder", "path": "data/incoming/photos"}, {
        "prepare": {"size": [32, 32], "channels": 3}
    }


@pytest.mark.long
def test_a_folder_of_photos_with_splits(project: Checkout) -> None:
    source, sections = photos(project.path)
    edit(project, source, **sections)
    runs, scores = live(project, "data/incoming/photos/test")
    assert runs[0]["accuracy"] > 0.8
    kinds = [Path(path).parent.name for path in scores["path"]]
    assert (scores["prediction"] == pl.Series(kinds)).mean() > 0.8
    assert set(scores["prediction"]) == {"circle", "bar"}


@pytest.mark.long
def test_a_data_set_of_the_hub_with_string_labels(project: Checkout) -> None:
    files = {"data/train-00000-of-00001.parquet": _embedded(["nailong", "other"], ("PNG", "GIF"))}
    edit(
        project,
        {
            "type": "huggingface",
            "repository": REPOSITORY,
            "splits": {"train": "train"},
            "label": "label",
            "image": "image",
        },
        prepare={"size": [32, 32], "channels": 3},
    )
    with hub(files) as endpoint:
        runs, scores = live(
            project, f"hf://datasets/{REPOSITORY}?split=train", HF_ENDPOINT=endpoint
        )
    assert runs[0]["accuracy"] > 0.8
    assert scores["reason"].null_count() == len(scores) == 200
    assert set(scores["prediction"]) == {"nailong", "other"}


def shapes(tree: Path) -> Data:
    """Two parquet files with circles at even rows and bars at odd ones."""
    import datasets

    random = np.random.default_rng(2)
    kinds = [index % 2 for index in range(240)]
    data = datasets.Dataset.from_dict(
        {"image": [shape(("circle", "bar")[kind], random) for kind in kinds], "label": kinds},
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["circle", "bar"])}
        ),
    )
    for shard in range(2):
        file = tree / f"data/incoming/shapes-{shard}.parquet"
        data.shard(2, shard, contiguous=True).to_parquet(str(file))
    source = {"type": "parquet", "path": "data/incoming", "label": "label", "image": "image"}
    return source, {"prepare": {"size": [32, 32], "channels": 3}}


@pytest.mark.long
def test_parquet_as_load_dataset_reads_it(project: Checkout) -> None:
    source, sections = shapes(project.path)
    edit(project, source, **sections)
    runs, scores = live(project, "data/incoming")
    assert runs[0]["accuracy"] > 0.8
    names = pl.Series(["circle", "bar"] * 120)
    assert (scores["prediction"] == names).mean() > 0.8


DATASET = """\
import torch
from torch.utils.data import Dataset


class Waves(Dataset):
    classes = ["slow", "fast"]

    def __init__(self, rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.phase = torch.rand(rows, generator=generator)

    def __len__(self) -> int:
        return len(self.phase)

    def __getitem__(self, index: int):
        label = index % 2
        steps = torch.arange(16) * (label + 1) / 4 + self.phase[index]
        noise = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(index))
        return 0.45 + 0.45 * torch.sin(steps).repeat(16, 1)[None] + 0.1 * noise, label
"""
MODULE = """\
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, images):
        return self.layers(images)
"""


def waves(tree: Path) -> Data:
    (tree / "custom/sources/waves.py").write_text(DATASET)
    (tree / "custom/models/net.py").write_text(MODULE)
    source = {"type": "custom", "source": "custom.sources.waves:Waves", "arguments": {"rows": 300}}
    return source, {
        "prepare": {"size": [16, 16], "channels": 1},
        "model": {"name": "custom.models.net:Net"},
    }


@pytest.mark.long
def test_a_dataset_and_a_module_of_ones_own(project: Checkout) -> None:
    source, sections = waves(project.path)
    edit(project, source, **sections)
    folder = project.path / "data/incoming/waves"
    folder.mkdir()
    for index, step in enumerate((0.25, 0.5)):
        wave = (255 * (0.5 + 0.5 * np.sin(np.arange(16) * step))).astype(np.uint8)
        (folder / f"{index}.png").write_bytes(
            encoded(Image.fromarray(np.tile(wave, (16, 1))), "PNG")
        )
    runs, scores = live(project, "data/incoming/waves")
    assert runs[0]["accuracy"] > 0.9
    assert scores.sort("path")["prediction"].to_list() == ["slow", "fast"]


@pytest.mark.parametrize(("data", "accuracy"), [(cells, 0.88), (photos, 0.8), (shapes, 0.8)])
def test_the_stages_alone_learn_the_same_data(
    tree: Path, configured: Callable[..., Params], data: Callable[[Path], Data], accuracy: float
) -> None:
    (tree / "data/incoming").mkdir(parents=True)
    source, sections = data(tree)
    values = {
        section: {**SMALL.get(section, {}), **sections.get(section, {})}
        for section in {*SMALL, *sections}
    }
    params = configured(source, **values)
    refresh.fn(params, tree)
    for stage in (ingest, validate, prepare, train, evaluate):
        stage.fn(params, tree)
    assert json.loads((tree / "reports/metrics.json").read_text())["accuracy"] > accuracy


def _embedded(labels: list[str], kinds: tuple[str, ...]) -> bytes:
    """A parquet file in the shape that the Hub keeps, with images of several sizes and formats."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for index in range(200):
        image = shape(("circle", "bar")[index % 2], random, side=int(random.integers(60, 90)))
        rows.append({"bytes": encoded(image, kinds[index % len(kinds)]), "path": f"{index}.png"})
        names.append(labels[index % 2])
    table = pa.table(
        {
            "image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": names,
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()
