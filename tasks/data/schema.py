"""The rules that a row has to keep, as a pandera schema on polars, checked value by value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from tasks.errors import ValidationFailed
from tasks.params import Rules, ValidateParams

REASONS = {  # code: what it means; a row gets the first that holds
    "label_null": "no label",
    "label_unknown": "a label that is no class",
    "split_unknown": "a split that is not train, val or test",
    "image_null": "no image",
    "image_empty": "an image of 0 bytes",
    "image_bomb": "an image with more pixels than are decoded",
    "image_format": "an image format that is not read",
    "image_mode": "pixels without a fixed range",
    "image_corrupt": "an image that does not decode to its end",
    "null": "a value is missing",
    "not_finite": "a value is infinite or NaN",
    "out_of_range": "a value outside its range",
    "not_allowed": "a value that is not allowed",
    "not_unique": "the same unique key as an earlier row",
    "duplicate": "the same image as an earlier row",
    "leak": "the same image as a row of the validation or test split",
    "conflict": "the same image as a row with another label",
}
CODES = {reason: code for code, reason in enumerate(REASONS, start=1)}  # 0 is a good row
SPLITS = ["train", "val", "test"]
DTYPES = {"int": pl.Int64, "float": pl.Float64, "string": pl.String}
ANY = Rules(dtype=None, min=None, max=None, allowed=None, nullable=True)


def schema(info: dict[str, Any], params: ValidateParams) -> pa.DataFrameSchema:
    """The rules for a frame of one shard: its columns without the image, but with `fault`, the code of its decoding.

    Raises:
        ValidationFailed: `validate.columns` names a column that is not there.
    """
    if unknown := sorted(
        (params.columns.keys() | {*params.unique}) - {"row_id", "label", *info["features"], *info["kept"]}
    ):
        has = ", ".join(["label", *info["features"]])
        raise ValidationFailed(f"validate.columns and unique name {', '.join(unknown)}; the rows have {has}")
    columns = {"row_id": pa.Column(pl.String), "label": _label(info, params.columns.get("label"))}
    split = _check("split_unknown", lambda column: column.is_in(SPLITS))
    columns["split"] = pa.Column(pl.String, split, nullable=True, required=False)
    if info["kind"] == "image":
        columns["fault"] = pa.Column(pl.String, nullable=True)
    columns.update({name: _feature(params.columns.get(name, ANY)) for name in info["features"]})
    columns.update({name: pa.Column(pl.String, nullable=True) for name in info["kept"]})
    return pa.DataFrameSchema(columns, strict=True)


def of_features(names: Sequence[str], rules: Mapping[str, Rules]) -> pa.DataFrameSchema:
    """The rules for a frame of these features alone."""
    return pa.DataFrameSchema({name: _feature(rules.get(name, ANY)) for name in names}, strict=True)


def _feature(rules: Rules) -> pa.Column:
    finite = _check("not_finite", lambda column: column.cast(pl.Float64).is_finite())
    dtype = DTYPES[rules.dtype] if rules.dtype else None
    return pa.Column(dtype, [finite, *_checks(rules)], nullable=rules.nullable)


def _label(info: dict[str, Any], rules: Rules | None) -> pa.Column:
    """Whole numbers are places in the list of classes, if there is one; words are any unless rules allow some only."""
    checks = _checks(rules) if rules else []
    if info["label_type"] == "int":
        top = len(info["classes"]) - 1 if info["classes"] else 2**62
        return pa.Column(pl.Int64, [_check("label_unknown", lambda column: column.is_between(0, top)), *checks])
    known = info["classes"]
    return pa.Column(
        pl.String, [*([_check("label_unknown", lambda column: column.is_in(known))] if known else []), *checks]
    )


def _checks(rules: Rules) -> list[pa.Check]:
    checks = []
    if rules.min is not None or rules.max is not None:
        low, high = (
            rules.min if rules.min is not None else -float("inf"),
            rules.max if rules.max is not None else float("inf"),
        )
        checks.append(_check("out_of_range", lambda column: column.is_between(low, high)))
    if rules.allowed is not None:
        allowed = list(rules.allowed)
        checks.append(_check("not_allowed", lambda column: column.is_in(allowed)))
    return checks


def _check(reason: str, rule: Callable[[pl.Expr], pl.Expr]) -> pa.Check:
    return pa.Check(lambda data: data.lazyframe.select(rule(pl.col(data.key))), name=reason)


def failures(frame: pl.DataFrame, rules: pa.DataFrameSchema) -> pl.DataFrame:
    """What breaks the rules: row (int64), reason and detail, once per row and rule.

    Raises:
        ValidationFailed: a column is missing, too many, or of another type.
    """
    try:
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            rules.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases: pl.DataFrame = error.failure_cases
    else:
        return pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String, "detail": pl.String})
    columns = cases.filter(pl.col("index").is_null())
    if len(columns):
        raise ValidationFailed(_difference(frame, columns))
    null = pl.when(pl.col("column") == "label").then(pl.lit("label_null")).otherwise(pl.lit("null"))
    return cases.select(
        row=pl.col("index").cast(pl.Int64),
        reason=pl.when(pl.col("check") == "not_nullable").then(null).otherwise(pl.col("check")),
        detail=pl.format("{} is {}", "column", pl.col("failure_case").cast(pl.String).fill_null("null")),
    )


def _difference(frame: pl.DataFrame, cases: pl.DataFrame) -> str:
    """What is wrong with the columns, one after the other, in the words of pandera's checks."""
    said = {
        "column_in_schema": "{case} is one too many",
        "column_in_dataframe": "{case} is missing",
    }
    lines = [
        said.get(str(check).partition("(")[0], "{column} is {case}, not {check}").format(
            case=case, column=column, check=str(check).removeprefix("dtype('").removesuffix("')")
        )
        for column, check, case in cases.select("column", "check", "failure_case").iter_rows()
    ]
    return f"the columns are not those of the schema: {'; '.join(lines)} (found {', '.join(frame.columns)})"
