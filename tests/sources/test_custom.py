"""A Dataset of your own is a source as it is: no revision() and no rows()."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.errors import CorruptData, ParamsError, SourceChanged
from ratchet.params import Params
from tasks.ingest import ingest
from tasks.refresh import refresh
from tests.helpers.data_samples import pictures

pytest_plugins = ["tests.helpers.data_fixtures"]

TABULAR = """\
import torch
from torch.utils.data import Dataset


class Mine(Dataset):
    classes = ["no", "yes"]

    def __init__(self, rows=25):
        self.x = torch.arange(rows * 2.0).view(rows, 2)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], torch.tensor(index % 2)
"""


@pytest.fixture
def params(tree: Path, configured: Callable[..., Params]) -> Callable[..., Params]:
    def make(code: str, ingest: dict[str, Any] | None = None, **arguments: Any) -> Params:
        (tree / "custom/sources").mkdir(parents=True, exist_ok=True)
        (tree / "custom/sources/mine.py").write_text(code)
        source = {"type": "custom", "source": "custom.sources.mine:Mine", "arguments": arguments}
        return configured(source, ingest=ingest or {})

    return make


def ingested(params: Params, tree: Path) -> tuple[dict[str, Any], pa.Table]:
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    info = json.loads((tree / "data/raw/dataset.json").read_text())
    return info, pa.concat_tables(
        pq.read_table(tree / "data/raw" / shard["file"]) for shard in info["shards"]
    )


def resolved(tree: Path) -> str:
    return str(json.loads((tree / "source.lock").read_text())["sources"][0]["resolved"])


def test_a_map_style_dataset_of_features(tree: Path, params: Callable[..., Params]) -> None:
    info, rows = ingested(params(TABULAR), tree)
    assert info["classes"] == ["no", "yes"] and info["kind"] == "features"
    assert rows["label"].to_pylist() == ["no", "yes"] * 12 + ["no"]
    assert rows["feature:x1"].to_pylist() == [2.0 * row + 1 for row in range(25)]
    assert resolved(tree).startswith("25 rows, ")


@pytest.mark.parametrize(
    "items",
    [
        "Image.fromarray(self.pixels[index])",
        "self.pixels[index]",
        "torch.from_numpy(self.pixels[index]).permute(2, 0, 1)",
        "torch.from_numpy(self.pixels[index]).permute(2, 0, 1).float() / 255",
        "transforms.ToTensor()(Image.fromarray(self.pixels[index]))",
    ],
)
def test_images_are_the_same_however_they_come(
    tree: Path, params: Callable[..., Params], items: str
) -> None:
    code = (
        "import numpy as np\nimport torch\nfrom PIL import Image\nfrom torchvision import transforms\n"
        "class Mine(torch.utils.data.Dataset):\n"
        "    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), np.uint8)\n"
        "    def __len__(self):\n        return 12\n"
        f"    def __getitem__(self, index):\n        return {items}, 'ab'[index % 2]\n"
    )
    _, rows = ingested(params(code), tree)
    ids = [str(row) for row in rows["row_id"].to_pylist()]
    assert len(set(ids)) == 12
    assert rows["label"].to_pylist() == ["a", "b"] * 6
    from ratchet.sources.base import array_id

    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), np.uint8)
    assert ids == [array_id(array) for array in pixels]


OTHERS = [
    "class Mine(IterableDataset):\n    def __iter__(self):\n        yield from [([1.0, 2.0], 0), ([3.0, 4.0], 1)]\n",
    "class Mine(IterableDataset):\n    def __len__(self):\n        return 2\n"
    "    def __iter__(self):\n        yield from [([1.0, 2.0], 0), ([3.0, 4.0], 1)]\n",
    "class Mine:\n    def rows(self):\n        yield from [([1.0, 2.0], 0), ([3.0, 4.0], 1)]\n",
    "class Mine:\n    def __iter__(self):\n        yield {'label': 0, 'x0': 1, 'x1': 2}\n"
    "        yield {'label': 1, 'x0': 3, 'x1': 4}\n",
    "def Mine():\n    return TensorDataset(torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[0.0], [1]]))\n",
    "def Mine():\n    return [((1, 2), 0), ((3, 4), 1)]\n",
]


@pytest.mark.parametrize("code", OTHERS)
def test_other_kinds_of_datasets(tree: Path, params: Callable[..., Params], code: str) -> None:
    head = "import torch\nfrom torch.utils.data import Dataset, IterableDataset, TensorDataset\n"
    _, rows = ingested(params(head + code), tree)
    assert rows["label"].to_pylist() == ["0", "1"]
    assert rows["feature:x0"].to_pylist() == [1.0, 3.0] and rows["feature:x1"].to_pylist() == [
        2.0,
        4.0,
    ]


def test_a_changed_row_is_a_new_revision_and_ingest_checks_it(
    tree: Path, params: Callable[..., Params]
) -> None:
    ingested(params(TABULAR), tree)
    first = resolved(tree)
    for code in (
        TABULAR.replace("* 2.0)", "* 2.0).add(0.001)"),
        TABULAR.replace("index % 2", "1 - index % 2"),
    ):
        with pytest.raises(
            SourceChanged,
            match=r"yields 25 rows, \w+, but source\.lock pins 25 rows, \w+; run `ratchet ref",
        ):
            ingest.fn(params(code), tree)
        refresh.fn(params(code), tree)
        assert resolved(tree) != first
    refresh.fn(params(TABULAR), tree)
    assert resolved(tree) == first


def test_random_items_are_refused(tree: Path, params: Callable[..., Params]) -> None:
    random = params(TABULAR.replace("self.x[index],", "self.x[index] + torch.rand(2),"))
    with pytest.raises(
        SourceChanged,
        match=r"items differ each time they are read: remove random transforms and shuf",
    ):
        ingested(random, tree)


def test_a_revision_of_its_own_spares_the_reading(
    tree: Path, params: Callable[..., Params]
) -> None:
    code = TABULAR + "    def revision(self):\n        return 'of today'\n"
    refresh.fn(params(code.replace("return self.x", "raise OSError\n        return self.x")), tree)
    assert resolved(tree) == "of today"
    _, rows = ingested(params(code), tree)
    assert len(rows) == 25


def test_columns_to_keep_and_names_of_features(tree: Path, params: Callable[..., Params]) -> None:
    code = "class Mine:\n    def rows(self):\n        yield {'label': 'a', 'age': 3, 'sex': 'm', 'split': 'valid'}\n"
    info, rows = ingested(params(code, {"keep": ["sex"]}), tree)
    assert (
        info["features"] == ["age"]
        and rows["keep:sex"].to_pylist() == ["m"]
        and rows["split"].to_pylist() == ["val"]
    )
    named = TABULAR.replace("    classes", "    feature_names = ['width', 'row_id']\n    classes")
    info, rows = ingested(params(named), tree)
    assert info["features"] == ["width", "row_id"] and rows["feature:row_id"].to_pylist()[0] == 1.0


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (TABULAR.replace("self.x[index], ", "[(0, 0), (1, 1)], "), CorruptData, r"row 0: image is a list of 2 tuples"),
        (TABULAR.replace("self.x[index],", "self.x[index][: 1 + index],"), CorruptData,
         r"row 1: it has x0, x1, row 0 has x0; every row needs the same"),
        (TABULAR.replace("return self.x[index]", "return 1 / 0"), CorruptData,
         r"mine:Mine, row 0: ZeroDivisionError: division by zero \(mine\.py, line 15\)"),
        ("class Mine: pass", ParamsError, r"is not a source; give it __len__ and __getitem__"),
        ("class Mine:\n    def __getitem__(self, index):\n        return 1, 1", ParamsError, r"but not __len__; add it"),
        ("class Mine:\n    def __init__(self, folder): pass", ParamsError, r"cannot be created with \{\}: .*folder"),
        ("class Other: pass", ParamsError, r"no class custom\.sources\.mine:Mine"),
        ("class Mine:\n    def rows(self):\n        yield {'label': 'a', 'sex': 'm'}", CorruptData,
         r"the feature sex is .*not a number"),
        ("class Mine:\n    def rows(self):\n        yield {'label': 'a', 'x': 1}\n        yield {'label': 1, 'x': 1}",
         CorruptData, r"the values of label are of several types"),
    ],
)  # fmt: skip
def test_what_is_no_source_is_one_line(
    tree: Path, params: Callable[..., Params], code: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ingested(params(code), tree)


def test_image_files_stay_as_they_are(tree: Path, params: Callable[..., Params]) -> None:
    (tree / "photos").mkdir()
    files = pictures(3)
    for number, content in enumerate(files):
        (tree / f"photos/{number}.png").write_bytes(content)
    code = f"def Mine():\n    return [('photos/0.png', 0), (r'{tree}/photos/1.png', 1), ('photos/2.png', 0)]\n"
    _, rows = ingested(params(code), tree)
    assert [image["bytes"] for image in rows["image"].to_pylist()] == files
