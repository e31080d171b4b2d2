"""The rules for rows, as a pandera schema on polars, checked value by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandera.polars as pa
import polars as pl
import pyarrow
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from ratchet.columns import FEATURE, KEEP, own, prefixed
from ratchet.errors import ValidationFailed
from ratchet.params import Rules, ValidateParams
from ratchet.shards import labels
from ratchet.shards.splits import SPLITS

REASONS = {  # code: its meaning; a row gets the first one that applies
    "label_null": "no label",
    "label_unknown": "a label that is not a class",
    "split_unknown": "a split that is not train, val or test",
    "image_null": "no image",
    "image_empty": "an image of 0 bytes",
    "image_bomb": "an image with more pixels than are decoded",
    "image_format": "an image format that is not read",
    "image_mode": "pixels without a fixed range",
    "image_corrupt": "an image that does not decode to its end",
    "null": "a value is missing",
    "not_finite": "a value is infinite or NaN",
    "not_whole": "a value that is not a whole number",
    "not_a_number": "a value that is not a number",
    "out_of_range": "a value outside its range",
    "not_allowed": "a value that is not allowed",
    "not_unique": "the same unique key as an earlier row",
    "duplicate": "the same image as an earlier row",
    "leak": "the same image as a row of the validation or test split",
    "conflict": "the same image as a row with another label",
}
CODES = {reason: code for code, reason in enumerate(REASONS, start=1)}  # 0 is a good row
ANY = Rules(dtype=None, min=None, max=None, allowed=None, nullable=True)


def schema(info: dict[str, Any], params: ValidateParams) -> pa.DataFrameSchema:
    """Build the rules for the frame of one shard.

    The frame has the shard's columns, with `fault`, the reason code of decoding, instead of the
    image.

    Args:
        info: kind, label_columns, classes, features and kept of `dataset.json`.
        params: the section `validate`.

    Raises:
        ValidationFailed: `validate.columns` or `validate.unique` names a column that does not
            exist, or sets a rule that its type rules out.
    """
    rules = {column(name, info): rule for name, rule in params.columns.items()}
    columns = {
        "row_id": pa.Column(pl.String),
        "label": _label(info["classes"], rules.get("label", ANY)),
    }
    split = _check("split_unknown", lambda words: words.is_in(SPLITS))
    columns["split"] = pa.Column(pl.String, split, nullable=True, required=False)
    if info["kind"] == "image":
        columns["fault"] = pa.Column(pl.String, nullable=True)
    columns.update(
        {name: _feature(name, rules.get(name, ANY)) for name in prefixed(FEATURE, info["features"])}
    )
    for name in prefixed(KEEP, info["kept"]):
        rule = rules.get(name, ANY)
        columns[name] = pa.Column(pl.String, _text_checks(rule), nullable=rule.nullable)
    return pa.DataFrameSchema(columns, strict=True)


def column(name: str, info: dict[str, Any]) -> str:
    """Find the column of a shard that a name in `validate.columns` or `validate.unique` means.

    Raises:
        ValidationFailed: there is no such column, or the name means two columns.
    """
    features, kept = info["features"], info["kept"]
    is_label = name == "label" or name in info["label_columns"]
    if name == "label" and name in (*features, *kept) and name not in info["label_columns"]:
        raise ValidationFailed(
            "validate.columns and unique name label, which is the label and also a column of that"
            f" name; for the label write {info['label_columns'][0]}, and rename the other column to"
            " check it"
        )
    if name in features:
        return FEATURE + name
    if is_label:
        return "label"
    if name in kept:
        return KEEP + name
    if name == "row_id":
        return "row_id"
    has = ", ".join(dict.fromkeys(["label", *features, *kept]))
    raise ValidationFailed(f"validate.columns and unique name {name}; the rows have {has}")


def of_features(names: Sequence[str], rules: Mapping[str, Rules]) -> pa.DataFrameSchema:
    """Build the rules for a frame of these features only, named as in shards."""
    columns = {FEATURE + name: _feature(FEATURE + name, rules.get(name, ANY)) for name in names}
    return pa.DataFrameSchema(columns, strict=True)


def _feature(name: str, rules: Rules) -> pa.Column:
    checks = [_check("not_finite", lambda values: values.is_finite())]
    if rules.dtype == "string":
        raise ValidationFailed(
            f"validate.columns.{own(name)}.dtype is string, but it is a feature, which is a number"
        )
    if rules.dtype == "int":
        checks.append(_check("not_whole", lambda values: values == values.round()))
    checks += _range(rules, lambda values: values)
    if rules.allowed is not None:
        words = [word for word in rules.allowed if isinstance(word, str)]
        if words:
            raise ValidationFailed(
                f"validate.columns.{own(name)}.allowed lists {words[0]!r}, but it is a feature,"
                " which is a number"
            )
        allowed = [float(value) for value in rules.allowed]
        checks.append(_check("not_allowed", lambda values: values.is_in(allowed)))
    return pa.Column(pl.Float64, checks, nullable=rules.nullable)


def _label(classes: Sequence[str] | None, rules: Rules) -> pa.Column:
    """Labels are unrestricted unless the source names classes or the rules list allowed values."""
    checks = _text_checks(rules)
    if classes:
        names = list(classes)
        checks.insert(0, _check("label_unknown", lambda words: words.is_in(names)))
    return pa.Column(pl.String, checks)


def _text_checks(rules: Rules) -> list[pa.Check]:
    """The rules for text: the type and the range apply to the number that it spells."""
    checks = _range(rules, lambda words: words.cast(pl.Float64, strict=False))
    if rules.dtype == "int":
        checks.append(_check("not_whole", lambda words: words.str.contains(r"^-?[0-9]+$")))
    if rules.dtype == "float":
        checks.append(
            _check("not_a_number", lambda words: words.cast(pl.Float64, strict=False).is_not_null())
        )
    if rules.allowed is not None:
        allowed = labels.text(pyarrow.array([_word(value) for value in rules.allowed])).to_pylist()
        checks.append(_check("not_allowed", lambda words: words.is_in(allowed)))
    return checks


def _word(value: object) -> str:
    """A value of the rules, spelled as in labels."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(rules: Rules, numbers: Callable[[pl.Expr], pl.Expr]) -> list[pa.Check]:
    if rules.min is None and rules.max is None:
        return []
    low = -math.inf if rules.min is None else rules.min
    high = math.inf if rules.max is None else rules.max

    def inside(values: pl.Expr) -> pl.Expr:
        return values.is_null() | numbers(values).is_between(low, high).fill_null(False)

    return [_check("out_of_range", inside)]


def _check(reason: str, rule: Callable[[pl.Expr], pl.Expr]) -> pa.Check:
    return pa.Check(lambda data: data.lazyframe.select(rule(pl.col(data.key))), name=reason)


def failures(frame: pl.DataFrame, rules: pa.DataFrameSchema) -> pl.DataFrame:
    """List the rows that break the rules: row (int64), reason and detail, once per row and rule.

    Raises:
        ValidationFailed: a column is missing, unexpected, or of another type.
    """
    try:
        with config_context(
            validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA
        ):
            rules.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases: pl.DataFrame = error.failure_cases
    else:
        return pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String, "detail": pl.String})
    columns = cases.filter(pl.col("index").is_null() & ~pl.col("check").is_in(list(REASONS)))
    if len(columns):
        raise ValidationFailed(_difference(frame, columns))
    names = {name: own(name) for name in frame.columns}
    null = pl.when(pl.col("column") == "label").then(pl.lit("label_null")).otherwise(pl.lit("null"))
    return cases.select(
        row=pl.col("index").cast(pl.Int64),
        reason=pl.when(pl.col("check") == "not_nullable").then(null).otherwise(pl.col("check")),
        detail=pl.format(
            "{} is {}",
            pl.col("column").replace(names),
            pl.col("failure_case").cast(pl.String).fill_null("null"),
        ),
    )


def _difference(frame: pl.DataFrame, cases: pl.DataFrame) -> str:
    """The message about columns that are missing, unexpected, or of another type."""
    lines = []
    for column, check, case in cases.select("column", "check", "failure_case").iter_rows():
        name = str(check).partition("(")[0]
        if name == "column_in_schema":
            lines.append(f"{case} is unexpected")
        elif name == "column_in_dataframe":
            lines.append(f"{case} is missing")
        else:
            dtype = str(check).removeprefix("dtype('").removesuffix("')")
            lines.append(f"{column} is {case}, not {dtype}")
    return (
        f"the columns are not those of the schema: {'; '.join(lines)} (found"
        f" {', '.join(frame.columns)})"
    )
