"""Features keep their precision up to the model: float64 in shards, standardised, then float32."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet import columns
from ratchet.dataset import spec
from ratchet.dataset import spec as specs
from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData, ValidationFailed
from ratchet.preparation.moments import Moments
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate

pytest_plugins = ["tests.helpers.data_fixtures"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 2, None]), [1.0, 2.0, None]),
        (pa.array([0.1], pa.float32()), [float(np.float32(0.1))]),
        (pa.array([True, False, None]), [1.0, 0.0, None]),  # pandas-dev/pandas#16698
        (pa.array([Decimal("1.25"), None]), [1.25, None]),
        (pa.array(["1", " 2.5 ", "1e3", "", "NaN"]), [1.0, 2.5, 1000.0, None, None]),
        (pa.array([3, 1, 3]).dictionary_encode(), [3.0, 1.0, 3.0]),
        (pa.array(["3", "1"]).dictionary_encode(), [3.0, 1.0]),
        (pa.array(["4"], pa.large_string()), [4.0]),
        (pa.nulls(2), [None, None]),
        (pa.array([7], pa.uint8()), [7.0]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_each_type_as_float64(column: pa.Array, expected: list[float | None]) -> None:
    found = columns.numbers(column)
    assert found.type == pa.float64() and found.to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "problem", "row"),
    [
        (pa.array(["1", "two"]), "'two'", 1),
        (pa.array(["0x10"]), "'0x10'", 0),
        (pa.array(["1_000"]), "'1_000'", 0),
        (pa.array(["5 kg"]), "'5 kg'", 0),
        (pa.array([1], pa.timestamp("s")), "timestamp[s]", None),
        (pa.array([[1.0]]), "list<item: double>", None),
        (pa.array([b"1"]), "binary", None),
    ],
)
def test_what_is_not_numeric(column: pa.Array, problem: str, row: int | None) -> None:
    with pytest.raises(columns.NotNumbers) as raised:
        columns.numbers(column)
    assert (raised.value.problem, raised.value.row) == (problem, row)


@pytest.mark.parametrize(
    "values",
    [
        1.7e9 + np.random.default_rng(0).uniform(0, 60, 5000),  # Unix time
        np.full(1000, 14.62),  # scikit-learn/scikit-learn#17794
        np.full(1000, 0.1),
        np.linspace(-1, 1, 999),
        1e12 + np.arange(1000.0),
        np.array([5.0]),
        np.random.default_rng(1).normal(1e-12, 1e-15, 4000),
        np.concatenate([np.full(500, 1e8), [1e8 + 1]]),
    ],
)
@pytest.mark.parametrize("size", [7, 1000])
def test_moments_are_those_of_two_passes(values: np.ndarray, size: int) -> None:
    moments = Moments.none(1)
    for start in range(0, len(values), size):
        moments = moments.after(values[start : start + size, None])
    mean, std = moments.mean_std()
    exact = np.asarray(values, np.longdouble)
    assert mean[0] == pytest.approx(float(exact.mean()), rel=1e-15)
    if (values == values[0]).all():
        assert mean[0] == values[0] and std[0] == 1.0
    else:
        assert std[0] == pytest.approx(float(exact.std()), rel=1e-6)


def test_moments_of_batches_that_overflow_are_not_finite() -> None:
    """Without a warning of NumPy; `prepare` reports the feature by name."""
    moments = Moments.none(2).after(np.array([[1.7e308, 1.0]])).after(np.array([[-1.7e308, 2.0]]))
    mean, std = moments.mean_std()
    assert not np.isfinite(mean[0] * std[0])
    assert (mean[1], std[1]) == (1.5, 0.5)


@pytest.fixture
def prepared(configured, tree):
    """Run the data stages on a table; returns the spec and the warnings of validate."""

    def run(table: dict[str, object], features: list[str], **keys: str) -> tuple[Spec, list[str]]:
        (tree / "data/incoming").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), tree / "data/incoming/a.parquet")
        source = {
            "type": "parquet",
            "path": "data/incoming",
            "label": "label",
            "features": features,
            **keys,
        }
        params = configured(source)
        for stage in (refresh, ingest, validate, prepare):
            stage.fn(params, tree)
        warnings = json.loads((tree / "reports/validation.json").read_text())["warnings"]
        warnings = [
            warning for warning in warnings if "feature" in warning
        ]  # and none about few test rows
        return Spec.read(tree / "data/prepared/spec.json"), warnings

    return run


def test_unix_time_keeps_its_values(prepared, tree) -> None:
    time = 1.7e9 + np.random.default_rng(0).uniform(0, 60, 400)
    found, warnings = prepared(
        {"t": time, "label": np.where(time > 1.7e9 + 30, "late", "early")}, ["t"]
    )
    train, targets = (
        np.load(tree / f"data/prepared/train/{name}.npy") for name in ("inputs", "targets")
    )
    assert (
        train.dtype == np.float32 and len(np.unique(train)) == len(train) == found.counts["train"]
    )
    middle = (1.7e9 + 30 - found.mean[0]) / found.std[0]
    assert ((train[:, 0] > middle) == targets).all() and found.std[0] == pytest.approx(
        time.std(), rel=0.1
    )
    assert warnings == []


def test_a_constant_and_an_empty_feature_are_warned_about(prepared, tree) -> None:
    table = {
        "a": [14.62] * 40,
        "b": pa.nulls(40, pa.float64()),
        "c": np.arange(40.0),
        "label": ["x", "y"] * 20,
    }
    _, warnings = prepared(table, ["a", "b", "c"])
    assert warnings == [
        "no row has a value of the feature b; leave it out of the source's features",
        "the feature a has the same value in every row, so no model can use it",
    ]
    train = np.load(tree / "data/prepared/train/inputs.npy")
    assert not train[:, :2].any() and train[:, 2].std() == pytest.approx(1)


def test_integers_that_float64_rounds_are_warned_about(prepared) -> None:
    _, (warning,) = prepared({"id": 2**53 + np.arange(40), "label": ["x", "y"] * 20}, ["id"])
    assert warning.startswith("the feature id has values beyond 2**53")


NORMAL = np.random.default_rng(0).normal(size=400)


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(400) == 7, 1e30, NORMAL),  # one value far off
        np.where(
            np.arange(400) % 10, 1.7e9 + 60 * NORMAL, 0
        ),  # Unix time, with 0 for what is missing
        np.where(np.arange(400) % 50, NORMAL, -1.7e38),  # a fill value
        NORMAL * 1e-300,
    ],
)
def test_values_that_float32_merges_are_warned_about(prepared, values, capsys) -> None:
    prepared({"v": values, "w": NORMAL, "label": ["x", "y"] * 200}, ["v", "w"])
    (warning,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("prepare: warning")
    ]
    assert "the feature v keeps only" in warning


def test_a_value_that_overflows_outside_training_is_an_error(prepared) -> None:
    values = np.append(np.arange(39.0), 1e300)
    table = {"u": np.arange(40.0), "v": values, "label": ["x", "y"] * 20}
    with pytest.raises(
        ValidationFailed, match="a value of the feature v in the test split is too far from those"
    ):
        prepared({**table, "part": ["train"] * 39 + ["test"]}, ["u", "v"], split="part")


def test_values_that_overflow_are_an_error(prepared) -> None:
    values = np.where(np.arange(40) % 2, 1e308, -1e308)
    with pytest.raises(
        ValidationFailed,
        match="the values of the feature v are too large to standardise in float64",
    ):
        prepared({"v": values, "label": ["x", "y"] * 20}, ["v"])


def test_a_bad_value_in_parquet_is_shown_with_its_row(prepared) -> None:
    with pytest.raises(
        CorruptData, match=r"a\.parquet, row 2: the feature v is 'tall', not a number"
    ):
        prepared({"v": ["1", "2", "tall"], "label": ["x", "y", "x"]}, ["v"])


FACTS = {
    "kind": "features",
    "input_shape": [1],
    "classes": ["a", "b"],
    "mean": [10.0],
    "std": [2.0],
    "counts": {},
}
OLD = Spec.parse({**FACTS, "features": ["x"], "size": None, "channels": None})
NEW = Spec.parse(
    {**FACTS, "features": ["x"], "size": None, "channels": None, "format": 2, "later": "unknown"}
)


@pytest.mark.parametrize("form", [OLD, NEW], ids=["format 1", "format 2"])
def test_a_model_of_either_format_is_fed_the_same(form: Spec) -> None:
    import torch

    from ratchet.dataset.normalise import Normalise

    table = pa.table({"feature:x": pa.array([12.0, None, float("inf"), 7.0])})
    inputs = spec.inputs(table, form)
    assert inputs.dtype == np.float32
    assert inputs[:, 0].tolist() == (
        [12.0, 10.0, 10.0, 7.0] if form is OLD else [1.0, 0.0, 0.0, -1.5]
    )
    fed = Normalise(form, torch.device("cpu"))(torch.from_numpy(inputs))
    assert fed[:, 0].tolist() == [1.0, 0.0, 0.0, -1.5]


def test_rows_without_a_feature_of_the_model_are_refused_by_name() -> None:
    names = ("x", "y", "z")
    spec = Spec(kind="features", input_shape=(3,), classes=("a",), mean=(0.0,) * 3, std=(1.0,) * 3, counts={},
                features=names, size=None, channels=None, format=2)  # fmt: skip
    table = pa.table({"row_id": ["0"], "feature:y": [1.0], "keep:x": ["1"]})
    with pytest.raises(CorruptData, match=r"^the rows lack x, z; they have row_id, y, x$"):
        specs.raw(table, spec)
