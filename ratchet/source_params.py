"""The sources that params.yaml can list under `ingest.sources`.

A key of a source that can be null may be left out, which means null.
"""

from __future__ import annotations

import codecs
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictStr, model_validator

from ratchet.param_types import ColumnName, Features, PathText, Split, section


@section
class TorchvisionSource:
    """A classification data set of torchvision."""

    type: Literal["torchvision"]
    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z]\w*$", max_length=100)]
    root: PathText | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@section
class _Table:
    """A source with named columns."""

    label: ColumnName
    split: ColumnName | None = None

    @model_validator(mode="after")
    def _check_columns(self) -> _Table:
        image = getattr(self, "image", None)
        features = getattr(self, "features", None)
        if (image is None) == (features is None):
            state = "neither is set" if image is None else "both are set"
            raise ValueError(f"a source needs either image or features; {state}")
        features = features or ()
        for key, names in (("features", features), ("image", (image,)), ("split", (self.split,))):
            if self.label in names:
                raise ValueError(f"{key} names the label column {self.label}; name another column")
        if self.split is not None and self.split in (image, *features):
            raise ValueError(
                f"split names {self.split}, which is an input of the model; name another column"
            )
        return self


@section
class ParquetSource(_Table):
    """Parquet files with a column of images, or columns of features."""

    type: Literal["parquet"]
    path: PathText
    image: ColumnName | None = None
    features: Features | None = None


@section
class HuggingFaceSource(_Table):
    """A data set of the Hugging Face hub."""

    type: Literal["huggingface"]
    repository: Annotated[StrictStr, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$", max_length=200)]
    config: StrictStr | None = None
    revision: Annotated[StrictStr, Field(pattern=r"^\w[\w./-]*$", max_length=200)] | None = None
    splits: dict[Split, StrictStr]
    image: ColumnName | None = None
    features: Features | None = None

    @model_validator(mode="after")
    def _check_split(self) -> HuggingFaceSource:
        if self.split is not None and len(self.splits) > 1:
            raise ValueError(
                f"the column {self.split} and {len(self.splits)} entries of splits"
                " both give each row a split; set split to null, or list one split"
            )
        return self


@section
class ImageFolderSource:
    """A folder with one folder of images per class."""

    type: Literal["imagefolder"]
    path: PathText


def _encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(
            "this encoding is unknown; use utf-8, cp1252, latin-1 or another of Python's codecs"
        ) from None
    return name


@section
class CsvSource(_Table):
    """CSV files with columns of features."""

    type: Literal["csv"]
    path: PathText
    features: Features
    separator: Annotated[StrictStr, Field(pattern=r'^[^"\r\n]$')] = ","
    decimal: Literal[".", ","] = "."
    encoding: Annotated[StrictStr, AfterValidator(_encoding)] = "utf-8"

    @model_validator(mode="after")
    def _check_marks(self) -> CsvSource:
        if self.separator == self.decimal:
            raise ValueError(f"separator and decimal are both {self.decimal!r}; they must differ")
        return self


@section
class CustomSource:
    """A class in `custom/sources/`."""

    type: Literal["custom"]
    source: Annotated[
        StrictStr, Field(pattern=r"^custom(\.[A-Za-z_]\w*)+:[A-Za-z_]\w*$", max_length=200)
    ]
    arguments: dict[str, Any] = field(default_factory=dict)


Source = Annotated[
    TorchvisionSource
    | ParquetSource
    | HuggingFaceSource
    | ImageFolderSource
    | CsvSource
    | CustomSource,
    Field(discriminator="type"),
]
