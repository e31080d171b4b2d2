"""The types that the sections of params.yaml are made of."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, StrictFloat, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

_T = TypeVar("_T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def section(cls: type[_T]) -> type[_T]:
    """Make a class a frozen dataclass that pydantic checks, without unknown keys, inf and nan."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return cast("type[_T]", dataclass(frozen=True, kw_only=True, config=config)(cls))


Count = Annotated[StrictInt, Field(ge=0)]
Positive = Annotated[StrictInt, Field(ge=1)]
Share = Annotated[StrictFloat, Field(ge=0, le=1)]
Seconds = Annotated[StrictFloat, Field(gt=0)]
Hours = Annotated[StrictFloat, Field(gt=0)]
PathText = Annotated[StrictStr, Field(pattern=r"^[^\x00-\x1f]+$", max_length=1000)]
Split = Literal["train", "val", "test"]
ColumnName = Annotated[StrictStr, Field(min_length=1)]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ValueError(f"{', '.join(duplicates)} is listed twice; list each column once")
    return names


ColumnNames = Annotated[tuple[ColumnName, ...], AfterValidator(_distinct)]
Features = Annotated[ColumnNames, Field(min_length=1)]
