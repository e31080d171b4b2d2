"""The rules for rows, one rule at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from pandera.config import ValidationDepth, config_context

from ratchet.errors import ValidationFailed
from ratchet.params import Rules, ValidateParams, Warn
from ratchet.validation import rules

WARN = Warn(duplicate=0.1, leak=0.1, conflict=0.1, other=0.1, imbalance=20.0)
PARAMS = ValidateParams(
    max_bad_fraction=1.0, max_pixels=100, columns={}, unique=(), may_be_empty=(), warn=WARN
)
INFO: dict[str, Any] = {
    "kind": "features",
    "label_columns": ["y"],
    "classes": None,
    "features": ["x"],
    "kept": ["site"],
}


def rule(**values: Any) -> Rules:
    return replace(rules.ANY, **values)


def broken(
    columns: dict[str, Rules], info: dict[str, Any] = INFO, **values: list[Any]
) -> set[tuple[int, str, str]]:
    """Row, reason and detail of what breaks the rules, in three rows that are good without them."""
    frame = pl.DataFrame(
        {
            "row_id": ["0", "1", "2"],
            "label": values.get("label", ["a", "b", "a"]),
            "feature:x": pl.Series(values.get("x", [1.0, 2.0, 3.0]), dtype=pl.Float64),
            "keep:site": pl.Series(values.get("site", ["n", "s", "w"]), dtype=pl.String),
        }
    )
    found = rules.failures(frame, rules.schema(info, replace(PARAMS, columns=columns)))
    assert found.schema == {"row": pl.Int64, "reason": pl.String, "detail": pl.String}
    rows = found.rows()
    assert len(rows) == len({*rows})
    return {*rows}


INF = float("inf")


@pytest.mark.parametrize(
    ("columns", "values", "expected"),
    [
        ({}, {}, set()),
        ({}, {"label": ["a", None, "b"]}, {(1, "label_null", "label is null")}),
        (
            {},
            {"x": [1.0, INF, -INF]},
            {(1, "not_finite", "x is inf"), (2, "not_finite", "x is -inf")},
        ),
        ({}, {"x": [None, 1.0, 1.0]}, set()),
        ({"x": rule(nullable=False)}, {"x": [None, 1.0, 1.0]}, {(0, "null", "x is null")}),
        ({"x": rule(dtype="int")}, {"x": [1.0, 2.5, None]}, {(1, "not_whole", "x is 2.5")}),
        ({"x": rule(dtype="float")}, {"x": [1.0, 2.5, None]}, set()),
        ({"x": rule(min=1.0)}, {"x": [0.9, 1.0, 5.0]}, {(0, "out_of_range", "x is 0.9")}),
        ({"x": rule(max=1.0)}, {"x": [0.9, 1.0, 5.0]}, {(2, "out_of_range", "x is 5.0")}),
        ({"x": rule(min=0.0, max=1.0)}, {"x": [None, 1.0, 5.0]}, {(2, "out_of_range", "x is 5.0")}),
        ({"x": rule(allowed=(1, 2.5))}, {"x": [1.0, 2.5, 3.0]}, {(2, "not_allowed", "x is 3.0")}),
        ({"site": rule(nullable=False)}, {"site": ["n", None, "w"]}, {(1, "null", "site is null")}),
        ({}, {"site": ["n", None, "w"]}, set()),
        ({"site": rule(allowed=("n", "s"))}, {}, {(2, "not_allowed", "site is w")}),
        (
            {"site": rule(allowed=(True, 7))},
            {"site": ["true", "7", "x"]},
            {(2, "not_allowed", "site is x")},
        ),
        (
            {"site": rule(dtype="int")},
            {"site": ["-7", "7.5", "a1"]},
            {(1, "not_whole", "site is 7.5"), (2, "not_whole", "site is a1")},
        ),
        (
            {"site": rule(dtype="float")},
            {"site": ["-7", "7.5", "a"]},
            {(2, "not_a_number", "site is a")},
        ),
        ({"site": rule(dtype="string")}, {}, set()),
        (
            {"site": rule(min=2, max=9)},
            {"site": ["1", "9", "w"]},
            {(0, "out_of_range", "site is 1"), (2, "out_of_range", "site is w")},
        ),
        ({"y": rule(allowed=("a",))}, {}, {(1, "not_allowed", "label is b")}),
        ({"label": rule(allowed=("a",))}, {}, {(1, "not_allowed", "label is b")}),
        ({"y": rule(dtype="int")}, {"label": ["1", "2", "z"]}, {(2, "not_whole", "label is z")}),
        ({"row_id": rule()}, {}, set()),
    ],
)
def test_a_rule_finds_exactly_the_rows_that_break_it(
    columns: dict[str, Rules], values: dict[str, list[Any]], expected: set[tuple[int, str, str]]
) -> None:
    assert broken(columns, **values) == expected


def test_a_row_that_breaks_several_rules_is_listed_for_each() -> None:
    columns = {"x": rule(dtype="int", max=1.0), "site": rule(allowed=("n",))}
    assert broken(columns, x=[1.0, 2.5, 1.0], site=["n", "s", "n"]) == {
        (1, "not_whole", "x is 2.5"),
        (1, "out_of_range", "x is 2.5"),
        (1, "not_allowed", "site is s"),
    }


def test_labels_are_the_classes_that_the_source_names() -> None:
    info = {**INFO, "classes": ["a", "c"]}
    assert broken({}, info) == {(1, "label_unknown", "label is b")}
    assert broken({"y": rule(allowed=("b",))}, info, label=["b", "c", "c"]) == {
        (0, "label_unknown", "label is b"),
        (1, "not_allowed", "label is c"),
        (2, "not_allowed", "label is c"),
    }


def test_splits_and_faults_have_columns_of_their_own() -> None:
    info = {**INFO, "kind": "image", "features": [], "kept": []}
    frame = pl.DataFrame(
        {
            "row_id": list("0123"),
            "label": list("abab"),
            "split": ["train", "val", None, "fold1"],
            "fault": [None, "image_null", None, None],
        }
    )
    checks = rules.schema(info, PARAMS)
    assert rules.failures(frame, checks).rows() == [(3, "split_unknown", "split is fold1")]
    assert rules.failures(frame.drop("split"), checks).rows() == []
    with pytest.raises(ValidationFailed, match="fault is missing"):
        rules.failures(frame.drop("fault"), checks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": ["1", "2", "3"]}, "more is unexpected"),
        ({"feature:x": ["1", "2", "3"]}, "feature:x is String, not Float64"),
    ],
)
def test_other_columns_are_named(change: dict[str, list[str]], message: str) -> None:
    columns = {
        "row_id": list("012"),
        "label": list("abc"),
        "feature:x": [1.0, 2.0, 3.0],
        "keep:site": list("nsw"),
    }
    frame = pl.DataFrame({**columns, **change})
    with pytest.raises(
        ValidationFailed,
        match=rf"^the columns are not those of the schema: {message} \(found row_id,",
    ):
        rules.failures(frame, rules.schema(INFO, PARAMS))


@pytest.mark.parametrize(
    ("columns", "info", "message"),
    [
        (
            {"z": rule()},
            INFO,
            r"^validate\.columns and unique name z; the rows have label, x, site$",
        ),
        (
            {"x": rule(dtype="string")},
            INFO,
            r"^validate\.columns\.x\.dtype is string, but it is a feature, which is",
        ),
        (
            {"x": rule(allowed=(1, "low"))},
            INFO,
            r"^validate\.columns\.x\.allowed lists 'low', but it is a feature",
        ),
        (
            {"label": rule()},
            {**INFO, "features": ["label"]},
            r"name label, which is the label and also a column of that name; for the label write y, and rename",
        ),
        (
            {"label": rule()},
            {**INFO, "kept": ["label"]},
            r"name label, which is the label and also a column of that",
        ),
    ],
)
def test_rules_that_no_column_can_have(
    columns: dict[str, Rules], info: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationFailed, match=message):
        rules.schema(info, replace(PARAMS, columns=columns))


def test_names_mean_what_the_user_calls_so() -> None:
    info = {**INFO, "features": ["x", "both", "y"], "kept": ["both", "site"]}
    names = {
        name: rules.column(name, info) for name in ("x", "both", "site", "label", "row_id", "y")
    }
    assert names == {
        "x": "feature:x",
        "both": "feature:both",
        "site": "keep:site",
        "label": "label",
        "row_id": "row_id",
        "y": "feature:y",
    }
    assert rules.column("label", {**INFO, "label_columns": ["label"], "kept": ["label"]}) == "label"


def test_checks_run_where_the_environment_turns_them_off() -> None:
    """As `PANDERA_VALIDATION_ENABLED=False` does."""
    for off in ({"validation_enabled": False}, {"validation_depth": ValidationDepth.SCHEMA_ONLY}):
        with config_context(**off):
            assert broken({"x": rule(max=1.0)}) == {
                (1, "out_of_range", "x is 2.0"),
                (2, "out_of_range", "x is 3.0"),
            }


def test_features_alone_have_the_same_rules() -> None:
    frame = pl.DataFrame({"feature:x": [0.5, 7.0, INF], "feature:z": [1.0, None, 1.0]})
    checks = rules.of_features(
        ["x", "z"], {"x": rule(max=5.0), "z": rule(nullable=False), "label": rule()}
    )
    assert {*rules.failures(frame, checks).rows()} == {
        (1, "out_of_range", "x is 7.0"),
        (2, "out_of_range", "x is inf"),
        (2, "not_finite", "x is inf"),
        (1, "null", "z is null"),
    }


def test_the_reasons_have_one_code_each_and_a_good_row_has_none() -> None:
    assert [*rules.CODES.values()] == list(range(1, len(rules.REASONS) + 1))
    assert [*rules.CODES] == [*rules.REASONS]
