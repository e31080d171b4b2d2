"""Column names have no hidden meaning, whatever they are."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData, ValidationFailed
from ratchet.shards.shards import Shards
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate

pytest_plugins = ["tests.helpers.data_fixtures"]

NAMES = [
    "row_id",
    "split",
    "label",
    "image",
    "target",
    "prediction",
    "fault",
    "a.b",  # dask/fastparquet#245
    "sepal width (cm)",
    "größe",
    'say "x"',
    "a,b",
    "feature:x",
    "keep:x",
    "^x.*$",
    "key",
]


@pytest.fixture
def staged(configured, tree):
    """Run the data stages on a table, written as CSV or parquet.

    Returns the shard's table and the spec.
    """

    def run(
        table: pa.Table,
        label: str,
        features: list[str],
        keep: list[str],
        kind="parquet",
        **validation,
    ):
        (tree / "data/incoming").mkdir(parents=True, exist_ok=True)
        if kind == "csv":
            table.to_pandas().to_csv(tree / "data/incoming/a.csv", index=False)
        else:
            pq.write_table(table, tree / "data/incoming/a.parquet")
        source = {"type": kind, "path": "data/incoming", "label": label, "features": features}
        params = configured(source, ingest={"keep": keep}, validate=validation)
        for stage in (refresh, ingest, validate, prepare):
            stage.fn(params, tree)
        (shard,) = Shards.open(tree / "data/raw")
        return pq.read_table(shard.path), Spec.read(tree / "data/prepared/spec.json")

    return run


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_any_name_is_a_feature_and_kept(staged, tree, kind) -> None:
    count = 30
    values = {name: np.arange(count) + place for place, name in enumerate(NAMES)}
    table = pa.table({**values, "class of it": ["x", "y", "z"] * 10})
    rows, spec = staged(table, "class of it", NAMES, NAMES, kind)
    assert spec.features == tuple(NAMES) and spec.classes == ("x", "y", "z")
    info = json.loads((tree / "data/raw/dataset.json").read_text())
    assert info["features"] == info["kept"] == NAMES
    for name in NAMES:
        assert rows[f"feature:{name}"].to_pylist() == values[name].tolist()
        assert rows[f"keep:{name}"].to_pylist() == [str(value) for value in values[name]]
    assert "split" not in rows.column_names
    meta = pq.read_table(tree / "data/prepared/train/meta.parquet")
    assert meta.column_names == ["row_id", *(f"keep:{name}" for name in NAMES)]
    train = np.load(tree / "data/prepared/train/inputs.npy")
    kept = np.array([meta[f"keep:{name}"].to_pylist() for name in NAMES], float).T
    assert np.allclose(train * np.array(spec.std) + np.array(spec.mean), kept, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["row_id", "split", "label", "image", "target", "prediction", "fault", "a.b"]
)
def test_any_name_is_the_label(staged, name) -> None:
    table = pa.table({"x": np.arange(20.0), name: ["cat", "dog"] * 10})
    rows, spec = staged(table, name, ["x"], [])
    assert spec.classes == ("cat", "dog") and rows["label"].to_pylist() == ["cat", "dog"] * 10


def test_a_feature_does_not_become_the_split(staged) -> None:
    table = pa.table({"split": np.arange(40.0), "y": ["a", "b"] * 20})
    rows, spec = staged(table, "y", ["split"], ["split"])
    assert rows.column_names == ["row_id", "label", "feature:split", "keep:split"]
    assert spec.counts["train"] < 40


@pytest.mark.fault(41)
@pytest.mark.parametrize("name", ["x", "label"])
def test_duplicate_columns_are_named(staged, name) -> None:
    columns = [pa.array([1.0, 2.0]), pa.array(["a", "b"]), pa.array([1.0, 2.0])]
    table = pa.Table.from_arrays(columns, names=["x", "label", name])
    with pytest.raises(
        CorruptData, match=rf"a\.parquet has more than one column {name}; rename or remove"
    ):
        staged(table, "label", ["x"], [])


def rules(**values):
    return {"dtype": None, "min": None, "max": None, "allowed": None, "nullable": True, **values}


def test_rules_name_columns_as_the_user_does(staged, tree) -> None:
    table = pa.table(
        {
            "a.b": [*np.arange(38.0), 40, 1.5],
            "site": ["n", "s"] * 19 + ["w", "n"],
            "y": ["a", "b"] * 20,
        }
    )
    columns = {
        "a.b": rules(max=50, dtype="int"),
        "site": rules(allowed=["n", "s"]),
        "y": rules(allowed=["a", "b"]),
    }
    staged(table, "y", ["a.b"], ["site"], columns=columns, max_bad_fraction=0.1)
    bad = (
        pq.read_table(tree / "data/quarantine.parquet")
        .select(["row", "reason", "detail", "source"])
        .to_pylist()
    )
    assert bad == [
        {"row": 38, "reason": "not_allowed", "detail": "site is w", "source": "a.parquet, row 38"},
        {"row": 39, "reason": "not_whole", "detail": "a.b is 1.5", "source": "a.parquet, row 39"},
    ]


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"z": rules()}, r"name z; the rows have label, site"),
        (
            {"label": rules()},
            r"name label, which is the label and also a column of that name; for the label write y",
        ),
        ({"site": rules(), "label": rules(dtype="string")}, r"which is the label and also"),
        ({"y": rules(), "w": rules()}, r"name w;"),
    ],
)
def test_rules_that_mean_two_columns_or_none(staged, columns, message) -> None:
    table = pa.table({"label": np.arange(20.0), "site": ["n", "s"] * 10, "y": ["a", "b"] * 10})
    with pytest.raises(ValidationFailed, match=message):
        staged(table, "y", ["label"], ["site"], columns=columns)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            rules(dtype="string"),
            r"validate\.columns\.x\.dtype is string, but it is a feature, which is a number",
        ),
        (rules(allowed=["low"]), r"validate\.columns\.x\.allowed lists 'low', but it is a feature"),
    ],
)
def test_rules_for_text_on_a_feature(staged, rule, message) -> None:
    table = pa.table({"x": np.arange(20.0), "y": ["a", "b"] * 10})
    with pytest.raises(ValidationFailed, match=message):
        staged(table, "y", ["x"], [], columns={"x": rule})
