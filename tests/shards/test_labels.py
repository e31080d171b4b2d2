"""Labels are text, and every source reads them alike."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData, ValidationFailed
from ratchet.shards import labels
from ratchet.shards.shards import Shards
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate

pytest_plugins = ["tests.helpers.data_fixtures"]

NAN = float("nan")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0, 1, None, -1]), ["0", "1", None, "-1"]),
        (pa.array([0.0, 1.0, NAN, None]), ["0", "1", None, None]),  # pandas-dev/pandas#28335
        (pa.array([0.5, 1.0, -0.0]), ["0.5", "1", "0"]),
        (pa.array([0.1, 2.0], pa.float32()), ["0.1", "2"]),
        (pa.array([1e15, 1e20]), ["1000000000000000", "1e+20"]),
        (pa.array([Decimal("1.00"), Decimal("1.50")]), ["1", "1.5"]),
        (pa.array([Decimal("7")], pa.decimal32(5, 2)), ["7"]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (
            pa.array(["007", "07", "7", "7.0", "7.5"]),
            ["007", "07", "7", "7", "7.5"],
        ),  # pandas-dev/pandas#54665
        (pa.array(["true", "1", "", "  ", None]), ["true", "1", None, None, None]),
        (pa.array([" a", "a", "NA"]), [" a", "a", "NA"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([3, 1, None]).dictionary_encode(), ["3", "1", None]),
        (pa.array(["x"], pa.large_string()), ["x"]),
        (pa.array(["x"], pa.string_view()), ["x"]),
        (pa.array(["größe".encode(), None], pa.large_binary()), ["größe", None]),
        (pa.array([2**63], pa.uint64()), ["9223372036854775808"]),
        (pa.nulls(2), [None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_each_type_as_text(column: pa.Array, expected: list[str | None]) -> None:
    assert labels.text(column).to_pylist() == expected
    assert labels.text(pa.chunked_array([column, column])).to_pylist() == expected * 2


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0, 1, -1, None]), ["cat", "dog", None, None]),
        (pa.array([0.0, 1.0, NAN]), ["cat", "dog", None]),
        (pa.array([2, -2]), ["2", "-2"]),
        (pa.array([True, False]), ["dog", "cat"]),
        (pa.array(["dog", "bird"]), ["dog", "bird"]),
    ],
)
def test_numbers_of_named_classes(column: pa.Array, expected: list[str | None]) -> None:
    assert labels.text(column, ["cat", "dog"]).to_pylist() == expected


def test_a_number_out_of_range_is_no_other_class() -> None:
    assert labels.text(pa.array([0, 2]), ["1", "2"]).to_pylist() == ["1", "number 2"]


def test_equal_names_are_told_apart() -> None:
    assert labels.names(["crane", "maillot", "crane", ""]) == [
        "crane (0)",
        "maillot",
        "crane (2)",
        "3",
    ]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1], pa.timestamp("us")), r"timestamp\[us\]"),
        (pa.array([1], pa.date32()), "date32"),
        (pa.array([[1]]), "list<"),
        (pa.array([{"a": 1}]), "struct<"),
    ],
)
def test_other_types_are_refused_by_name(column: pa.Array, kind: str) -> None:
    with pytest.raises(
        CorruptData,
        match=rf"the label column day is {kind}.*; labels are text, numbers or booleans",
    ):
        labels.text(column, name="day")


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(
        CorruptData, match="the label column kind holds bytes that are not UTF-8 text"
    ):
        labels.text(pa.array([b"\xff"]), name="kind")


@pytest.mark.parametrize(
    ("distinct", "classes", "order"),
    [
        (["10", "9", "-1"], None, ["-1", "9", "10"]),
        (["10", "9", "a"], None, ["10", "9", "a"]),
        (["b", "a"], ["b", "a"], ["b", "a"]),
        (["1.5", "10", "2"], None, ["1.5", "10", "2"]),
        (["007", "7", "10"], None, ["007", "7", "10"]),
    ],
)
def test_the_order_of_classes(
    distinct: list[str], classes: list[str] | None, order: list[str]
) -> None:
    assert labels.ordered(distinct, classes) == order


# ── through the stages ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def staged(configured, tree):
    """Write a table as CSV and as parquet, run the data stages on each.

    Returns both specs and label columns.
    """

    def run(column: pa.Array, kinds=("csv", "parquet"), **validation):
        found = []
        for kind in kinds:
            folder = tree / f"data/incoming/{kind}"
            folder.mkdir(parents=True, exist_ok=True)
            table = pa.table({"x": np.arange(len(column), dtype=float), "target": column})
            if kind == "csv":
                table.to_pandas().to_csv(folder / "a.csv", index=False)
            else:
                pq.write_table(table, folder / "a.parquet")
            source = {
                "type": kind,
                "path": f"data/incoming/{kind}",
                "label": "target",
                "features": ["x"],
            }
            params = configured(source, validate={"max_bad_fraction": 0.5, **validation})
            for stage in (refresh, ingest, validate, prepare):
                stage.fn(params, tree)
            (shard,) = Shards.open(tree / "data/raw")
            rows = pq.read_table(shard.path)["label"].to_pylist()
            found.append((Spec.read(tree / "data/prepared/spec.json").classes, rows))
        return found

    return run


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (pa.array([0, 1] * 20), ("0", "1")),
        (
            pa.array([0, 1, None, 1] * 10),
            ("0", "1"),
        ),  # pandas-dev/pandas#28335: 0.0, 1.0 and a gap in the CSV
        (pa.array(["007", "7", "07", "7"] * 10), ("007", "07", "7")),
        (pa.array(["", "a", "b", "a"] * 10), ("a", "b")),
        (pa.array([0.5, 1.5] * 20), ("0.5", "1.5")),
        (pa.array(["10", "9", "A12"] * 10), ("10", "9", "A12")),
        (pa.array([10, 9, 100] * 10), ("9", "10", "100")),
        (pa.array(["true", "1", "false"] * 10), ("1", "false", "true")),
    ],
)
def test_csv_and_parquet_agree(staged, column, classes) -> None:
    (of_csv, csv_rows), (of_parquet, parquet_rows) = staged(column)
    assert of_csv == of_parquet == classes and csv_rows == parquet_rows


def test_integers_before_text_in_a_long_file(configured, tree) -> None:
    (tree / "data").mkdir()
    lines = "".join(f"{row},{row % 3}\n" for row in range(80_000))
    (tree / "data/a.csv").write_text("x,y\n" + lines + "1,A12\n1,A12\n")
    params = configured({"type": "csv", "path": "data/a.csv", "label": "y", "features": ["x"]})
    for stage in (refresh, ingest, validate):
        stage.fn(params, tree)
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["classes"]["all"] == {"0": 26667, "1": 26667, "2": 26666, "A12": 2}


AMOUNTS = np.random.default_rng(0).uniform(1000, 90000, 300)


@pytest.mark.parametrize(
    "values",
    [
        np.round(np.linspace(1, 346, 420), 1),
        range(419),
        [f"${amount:,.2f}" for amount in AMOUNTS],
        [f"{amount / 1000:.2f} %" for amount in AMOUNTS],
        [f"{amount:_.0f}".replace("_", "'") for amount in AMOUNTS],
        [f"{amount:.2f}" if row % 10 else "NA" for row, amount in enumerate(AMOUNTS)],
        [amount if row % 10 else None for row, amount in enumerate(AMOUNTS)],
        [f"{amount:.3e}" for amount in AMOUNTS],
    ],
)
def test_a_quantity_is_no_class(staged, values) -> None:
    message = r"the label column target has \d+ distinct values, nearly all of them numbers.*single-label classification"
    with pytest.raises(ValidationFailed, match=message):
        staged(pa.array(values), ["parquet"])


@pytest.mark.parametrize(
    "values",
    [
        [str(row % 60) for row in range(240)],  # numbers, but every class has rows
        [f"id{row}" for row in range(60)],
        [f"{row % 20}" for row in range(20)],  # few
    ],
)
def test_many_classes_are_no_quantity(staged, values) -> None:
    ((classes, _),) = staged(pa.array(values), ["parquet"])
    assert set(classes) == set(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["NA", "b"], "the class 'NA' is named like a missing value"),
        (["?", "b"], "the class '?' is named like a missing value"),
        (
            ["Cat", "cat"],
            "the classes 'Cat', 'cat' differ only in case, spaces or characters that look alike",
        ),
        ([" cat", "cat"], "the classes ' cat', 'cat' differ only in case, spaces"),
        (["caf\u00e9", "cafe\u0301"], r"the classes 'cafe\u0301', 'caf\xe9' differ only in"),
        (["cat", "cat\u200b"], r"the classes 'cat', 'cat\u200b' differ only in"),
        (["cat", "cat\u00a0"], r"the classes 'cat', 'cat\xa0' differ only in"),
        (["1", "\uff11"], r"the classes '1', '\uff11' differ only in"),
    ],
)
def test_suspicious_names_are_warned_about(staged, tree, values, message) -> None:
    staged(pa.array(values * 20), ["parquet"])
    warnings = json.loads((tree / "reports/validation.json").read_text())["warnings"]
    assert any(warning.startswith(message) for warning in warnings), warnings


@pytest.mark.parametrize("allowed", [[0, 1], ["0", "1"], [0.0, 1.0]])
def test_allowed_values_mean_their_text(staged, tree, allowed) -> None:
    rules = {"dtype": None, "min": None, "max": None, "allowed": allowed, "nullable": False}
    staged(pa.array([0, 1, 1, 0, 2] * 8), ["parquet"], columns={"label": rules})
    reasons = pq.read_table(tree / "data/quarantine.parquet")["reason"].to_pylist()
    assert reasons == ["not_allowed"] * 8


def test_allowed_booleans_mean_their_text(staged) -> None:
    rules = {"dtype": None, "min": None, "max": None, "allowed": [True, False], "nullable": False}
    ((classes, _),) = staged(pa.array([True, False] * 20), ["parquet"], columns={"label": rules})
    assert classes == ("false", "true")
