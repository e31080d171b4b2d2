"""What the report of the validation warns about, and what stops a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.errors import ValidationFailed
from ratchet.params import Params, PrepareParams, Rules, ValidateParams, Warn
from ratchet.validation import all_shards
from ratchet.validation import warnings as all_warnings
from tasks.ingest import ingest
from tasks.refresh import refresh
from tasks.validate import validate

pytest_plugins = ["tests.helpers.data_fixtures"]

WARN = Warn(duplicate=0.1, leak=0.02, conflict=0.03, other=0.04, imbalance=5.0)
PARAMS = ValidateParams(
    max_bad_fraction=0.25, max_pixels=100, columns={}, unique=(), may_be_empty=(), warn=WARN
)
PREPARE = PrepareParams(
    size=(8, 8), channels=1, decoded_limit_bytes=10**9, val_fraction=0.1, test_fraction=0.5
)
PLENTY = 100_000  # rows of a class, enough for every test of the gate


def report(classes: dict[str, int], **facts: Any) -> dict[str, Any]:
    total = sum(classes.values())
    rows = {"in": total, "out": total, "quarantined": 0}
    start = {
        "rows": rows,
        "reasons": {},
        "classes": {"all": classes},
        "sizes": {},
        "modes": {},
        "colour": 0,
    }
    return {**start, "numbers": {}} | facts


def warnings(classes: dict[str, int], prepare: PrepareParams = PREPARE, **facts: Any) -> list[str]:
    return all_warnings.warnings(PARAMS, prepare, report(classes, **facts))


EVEN = {"a": PLENTY, "b": PLENTY}


def test_even_classes_are_no_warning() -> None:
    assert warnings(EVEN) == []
    assert warnings({}) == []


@pytest.mark.parametrize(
    ("reason", "level", "share"),
    [
        ("duplicate", "duplicate", 0.1),
        ("leak", "leak", 0.02),
        ("conflict", "conflict", 0.03),
        ("null", "other", 0.04),
    ],
)
def test_bad_rows_beyond_their_level_are_a_warning(reason: str, level: str, share: float) -> None:
    rows = {"in": 1000, "out": 500, "quarantined": 500}
    at = round(1000 * share)
    assert warnings(EVEN, rows=rows, reasons={reason: at}) == []
    assert warnings(EVEN, rows=rows, reasons={reason: at + 1}) == [
        f"{at + 1:,} rows ({(at + 1) / 1000:.2%}) are set aside as {reason}; validate.warn.{level} is {share}"
    ]


def test_warnings_about_bad_rows_come_in_the_order_of_their_reasons() -> None:
    rows = {"in": 10, "out": 0, "quarantined": 10}
    messages = warnings(EVEN, rows=rows, reasons={"null": 9, "leak": 9})
    assert [message.partition(" as ")[2][:4] for message in messages] == ["leak", "null"]


def test_classes_of_very_different_sizes() -> None:
    assert warnings({"a": 5 * PLENTY, "b": PLENTY}) == []
    assert warnings({"a": PLENTY, "b": 5 * PLENTY + 1}) == [
        "b has 500,001 rows, a 100,000; validate.warn.imbalance is 5.0"
    ]
    assert warnings({"a": 5 * PLENTY + 1, "b": PLENTY})[0].startswith(
        "a has 500,001 rows, b 100,000;"
    )


ALIKE = (
    "differ only in case, spaces or characters that look alike; if they are one class, rename them"
)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("Cat", "cat"), "'Cat', 'cat'"),
        (("a  b", "a b"), "'a  b', 'a b'"),
        (("cat", "cat\u200b"), r"'cat', 'cat\u200b'"),
        (("\ufb01n", "fin"), r"'fin', '\ufb01n'"),
    ],
)
def test_names_that_look_alike(names: tuple[str, str], shown: str) -> None:
    assert warnings({**dict.fromkeys(names, PLENTY), "z": PLENTY}) == [
        f"the classes {shown} {ALIKE}"
    ]


@pytest.mark.parametrize("name", [*all_warnings.ABSENT, "None ", "N/A", "NULL"])
def test_names_of_missing_values(name: str) -> None:
    assert warnings({name: PLENTY, "z": PLENTY}) == [
        f"the class {name!r} is named like a missing value; if it means one, leave those labels empty in the source"
    ]


def test_the_usual_words_for_a_missing_value() -> None:
    assert {*all_warnings.ABSENT} == {
        "na",
        "n/a",
        "nan",
        "null",
        "none",
        "nil",
        "?",
        "-",
        "#n/a",
        "<na>",
    }


def few(rare: str, count: int, splits: int) -> str:
    return (
        f"{count} of {count + 1} classes have fewer than {splits} rows, too few for one in each split: {rare}; "
        "validation and test will lack some of them"
    )


@pytest.mark.parametrize(("val", "test", "splits"), [(0.1, 0.5, 3), (0.0, 0.5, 2), (0.1, 0.0, 2)])
def test_classes_too_small_for_every_split(val: float, test: float, splits: int) -> None:
    prepare = replace(PREPARE, val_fraction=val, test_fraction=test)

    def rare(rows: int) -> list[str]:
        messages = warnings({"z": PLENTY, "b": rows, "a": rows}, prepare)
        return [message for message in messages if "too few for one" in message]

    assert rare(splits) == []
    assert rare(splits - 1) == [few("a, b", 2, splits)]


def test_many_small_classes_are_named_in_part() -> None:
    for count, rare in ((5, "0, 1, 2, 3, 4"), (7, "0, 1, 2, 3, 4 and 2 more")):
        messages = warnings({str(n): 1 for n in reversed(range(count))} | {"z": PLENTY})
        assert few(rare, count, 3) in messages
    content = report({}) | {
        "classes": {"train": {"a": PLENTY, "b": 1}, "test": EVEN}
    }  # the source defines the splits
    assert not [
        message
        for message in all_warnings.warnings(PARAMS, PREPARE, content)
        if "too few for" in message
    ]


def numbers(low: float | None, high: float | None) -> dict[str, Any]:
    return {"null": 0, "bins": {}, "min": low, "max": high}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0, 1.0, ""),
        (None, None, "no row has a value of the feature x; leave it out"),
        (1.0, 1.0, "the feature x has the same value in every row"),
        (0.0, 2.0**53, ""),
        (0.0, 2.0**53 + 2, "the feature x has values beyond 2**53"),
        (-(2.0**60), 0.0, "the feature x has values beyond 2**53"),
        (0.0, 2.0**64, "the feature x has values beyond 2**53"),
        (0.0, 2.0**65, ""),
    ],
)
def test_features_that_no_model_can_use(low: float | None, high: float | None, words: str) -> None:
    messages = warnings(EVEN, numbers={"x": numbers(low, high), "good": numbers(0.0, 1.0)})
    assert len(messages) == bool(words)
    assert all(message.startswith(words) for message in messages)
    assert (
        warnings(EVEN, numbers={"brightness": numbers(low, high)}, sizes={"8x8": 1}) == []
    )  # that of images


def test_a_shard_without_a_good_image_has_no_brightness() -> None:
    facts = {"null": 1, "bins": {"3": 2}, "min": 1.0, "max": 4.0}
    empty = {"null": 2, "bins": {}, "min": None, "max": None}
    assert all_shards._numbers(
        [{"a": facts}, {}, {"a": empty}, {"a": {**facts, "min": 0.5, "max": 2.0}}]
    ) == {"a": {"null": 4, "bins": {"3": 4}, "min": 0.5, "max": 4.0}}


def fail(
    classes: dict[str, int],
    params: ValidateParams = PARAMS,
    named: list[str] | None = None,
    **facts: Any,
) -> str:
    """Why the run stops; empty if it does not."""
    info = {"classes": named, "label_columns": ["y"]}
    try:
        all_shards.fail_if_bad(params, report(classes, **facts), info)
    except ValidationFailed as error:
        return str(error)
    return ""


def test_good_data_pass() -> None:
    assert fail({"a": 1, "b": 1}) == ""


def test_bad_rows_up_to_the_limit_pass() -> None:
    reasons = {"leak": 10, "null": 15}
    assert (
        fail({"a": 1, "b": 1}, rows={"in": 100, "out": 75, "quarantined": 25}, reasons=reasons)
        == ""
    )
    message = fail(
        {"a": 1, "b": 1}, rows={"in": 100, "out": 74, "quarantined": 26}, reasons=reasons
    )
    assert message == (
        "26 of 100 rows are bad, most of them null; validate.max_bad_fraction is 0.25; "
        "see reports/validation.json and data/quarantine.parquet"
    )


def test_no_good_row_is_an_error_whatever_the_limit() -> None:
    rows = {"in": 3, "out": 0, "quarantined": 3}
    message = fail({}, replace(PARAMS, max_bad_fraction=1.0), rows=rows, reasons={"null": 3})
    assert message.startswith("no good row among 3, most of them null; see reports/validation.json")
    assert fail({}, rows=rows | {"in": 0}).startswith("no good row among 0; see")


def test_a_named_class_needs_an_example_unless_it_may_be_empty() -> None:
    names = ["a", "b", "c", "d"]
    assert fail({"a": 1, "b": 1}, named=names).startswith(
        "no example of class c, d; see reports/validation.json"
    )
    allowed = replace(PARAMS, may_be_empty=("c", "d"))
    assert fail({"a": 1, "b": 1}, allowed, named=names) == ""
    assert fail({"a": 1, "b": 1}, replace(PARAMS, may_be_empty=("c",)), named=names).startswith(
        "no example of class d;"
    )


def test_one_class_is_an_error() -> None:
    assert fail({"a": 7}).startswith(
        "all 7 good rows have the class a in y; a classifier needs at least two classes"
    )


def test_a_quantity_is_no_class() -> None:
    once = {f"{n}.5": 1 for n in range(20)}
    twice = {f"{n}.5": 2 for n in range(20)}
    assert fail(once) == ""
    quantity = {**once, "1,234.5": 1}
    assert fail(quantity).startswith(
        "the label column y has 21 distinct values, nearly all of them numbers, and more"
    )
    assert fail({**quantity, "?": 9, "n/a": 9}).startswith(
        "the label column y has 23 distinct values"
    )
    assert fail({**quantity, "?": 9, "n/a": 9, "x": 9}) == ""  # one in eight is a word
    assert fail({**{f"{n}.5": 1 for n in range(27)}, "x": 9, "y": 9, "z": 9}) != ""  # one in ten
    assert fail({**twice, **{f"{n}.25": 1 for n in range(10)}}) == ""  # a third occurs once
    assert fail({**twice, **{f"{n}.25": 1 for n in range(11)}}) != ""
    assert fail(quantity, named=list(quantity)) == ""
    any_value = Rules(dtype="float", min=None, max=None, allowed=None, nullable=True)
    assert fail(quantity, replace(PARAMS, columns={"label": any_value})) != ""
    listed = replace(any_value, allowed=tuple(quantity))
    assert fail(quantity, replace(PARAMS, columns={"label": listed})) == ""


def test_the_report_adds_up_the_shards(tree: Path, configured: Callable[..., Params]) -> None:
    (tree / "data/incoming").mkdir(parents=True)
    x = [1.0, None, float("inf"), -4.0, 2.0, 9.0, None, 0.5]
    part = ["train", "test", "train", "test", "train", "test", "train", "other"]
    table = pa.table(
        {"x": x, "empty": pa.nulls(8, pa.float64()), "label": ["a", "b"] * 4, "part": part}
    )
    pq.write_table(table, tree / "data/incoming/a.parquet")
    source = {
        "type": "parquet",
        "path": "data/incoming",
        "label": "label",
        "features": ["x", "empty"],
        "split": "part",
    }
    params = configured(source, ingest={"shard_rows": 3}, validate={"max_bad_fraction": 1.0})
    for stage in (refresh, ingest, validate):
        stage.fn(params, tree)
    content = json.loads((tree / "reports/validation.json").read_text())
    assert content["rows"] == {"in": 8, "out": 6, "quarantined": 2}
    assert content["reasons"] == {"not_finite": 1, "split_unknown": 1}
    assert content["classes"] == {"train": {"a": 3}, "test": {"b": 3}}
    assert {**content["numbers"]["x"], "bins": None} == {
        "null": 2,
        "bins": None,
        "min": -4.0,
        "max": 9.0,
    }
    assert sum(content["numbers"]["x"]["bins"].values()) == 5  # all but inf
    assert content["numbers"]["empty"] == {"null": 8, "bins": {}, "min": None, "max": None}
    assert content["sizes"] == content["modes"] == {}
