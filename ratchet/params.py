"""params.yaml as frozen dataclasses, checked by pydantic: unknown keys are rejected and nothing has a default.

The file is read as YAML 1.2, as DVC reads it, so that both see the same values. DVC cannot see a
default that changes inside a class, hence none here. The one exception: a key of a source that can
be null may be left out, which means null.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from ratchet import param_faults, yaml_file
from ratchet.errors import ParamsError
from ratchet.param_faults import Problem

FILE = "params.yaml"

_T = TypeVar("_T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def _section(cls: type[_T]) -> type[_T]:
    return cast(
        "type[_T]",
        dataclass(
            frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False)
        )(cls),
    )


Count = Annotated[StrictInt, Field(ge=0)]
Positive = Annotated[StrictInt, Field(ge=1)]
Share = Annotated[StrictFloat, Field(ge=0, le=1)]
Seconds = Annotated[StrictFloat, Field(gt=0)]
Hours = Annotated[StrictFloat, Field(gt=0)]
PathText = Annotated[StrictStr, Field(pattern=r"^[^\x00-\x1f]+$", max_length=1000)]
Split = Literal["train", "val", "test"]
ColumnName = Annotated[StrictStr, Field(min_length=1)]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is listed twice; list each column once")
    return names


ColumnNames = Annotated[tuple[ColumnName, ...], AfterValidator(_distinct)]
Features = Annotated[ColumnNames, Field(min_length=1)]


@_section
class TorchvisionSource:
    type: Literal["torchvision"]
    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z]\w*$", max_length=100)]
    root: PathText | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@_section
class _Table:
    """A source with named columns."""

    label: ColumnName
    split: ColumnName | None = None

    @model_validator(mode="after")
    def _check_columns(self) -> _Table:
        image, features = getattr(self, "image", None), getattr(self, "features", None)
        if (image is None) == (features is None):
            have = "neither is set" if image is None else "both are set"
            raise ValueError(f"a source needs either image or features; {have}")
        for key, names in (
            ("features", features or ()),
            ("image", (image,)),
            ("split", (self.split,)),
        ):
            if self.label in names:
                raise ValueError(f"{key} names the label column {self.label}; name another column")
        if self.split is not None and self.split in (image, *(features or ())):
            raise ValueError(
                f"split names {self.split}, which is an input of the model; name another column"
            )
        return self


@_section
class ParquetSource(_Table):
    type: Literal["parquet"]
    path: PathText
    image: ColumnName | None = None
    features: Features | None = None


@_section
class HuggingFaceSource(_Table):
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
                f"the column {self.split} and {len(self.splits)} entries of splits both give each"
                " row a split; set split to null, or list one split"
            )
        return self


@_section
class ImageFolderSource:
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


@_section
class CsvSource(_Table):
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


@_section
class CustomSource:
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


@_section
class IngestParams:
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    shard_rows: Positive
    keep: ColumnNames


@_section
class Rules:
    """What the values of one column have to keep."""

    dtype: Literal["int", "float", "string"] | None
    min: StrictFloat | None
    max: StrictFloat | None
    allowed: tuple[StrictStr | StrictBool | StrictInt | StrictFloat, ...] | None
    nullable: StrictBool

    @model_validator(mode="after")
    def _check_range(self) -> Rules:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(
                f"min is {self.min:g} and max is {self.max:g}, so no value can pass; swap them"
            )
        if self.dtype == "string" and (self.min is not None or self.max is not None):
            raise ValueError(
                "min and max are for numbers, and dtype is string; set them to null, or use dtype"
                " float"
            )
        return self


@_section
class Warn:
    duplicate: Share
    leak: Share
    conflict: Share
    other: Share
    imbalance: Annotated[StrictFloat, Field(ge=1)]


@_section
class ValidateParams:
    max_bad_fraction: Share
    max_pixels: Annotated[StrictInt, Field(ge=1, le=178_956_970)]
    columns: dict[StrictStr, Rules]
    unique: tuple[StrictStr, ...]
    may_be_empty: tuple[StrictStr, ...]
    warn: Warn


@_section
class PrepareParams:
    size: tuple[Positive, Positive]
    channels: Literal[1, 3]
    decoded_limit_bytes: Count
    val_fraction: Annotated[StrictFloat, Field(ge=0, lt=1)]
    test_fraction: Annotated[StrictFloat, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _check_fractions(self) -> PrepareParams:
        total = self.val_fraction + self.test_fraction
        if total >= 1:
            raise ValueError(
                f"val_fraction and test_fraction add up to {total:g}; they must leave rows for"
                " training"
            )
        return self


@_section
class Named:
    """A part of PyTorch by its name, with the keyword arguments that it is built with."""

    name: StrictStr
    arguments: dict[str, Any]


@_section
class Pretrained:
    file: StrictStr
    sha256: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]


@_section
class ModelParams:
    name: StrictStr
    arguments: dict[str, Any]
    pretrained: Pretrained | None


@_section
class Schedule:
    name: StrictStr
    arguments: dict[str, Any]
    every: Literal["step", "epoch"]


@_section
class Augment:
    flip: StrictBool
    crop: Count
    erase: Share
    mixup: Annotated[StrictFloat, Field(ge=0)]
    cutmix: Annotated[StrictFloat, Field(ge=0)]


Switch = Literal["auto"] | StrictBool


@_section
class TrainParams:
    seed: Count
    epochs: Positive
    batch_size: Positive
    accumulate: Positive
    lr: Annotated[StrictFloat, Field(gt=0)]
    criterion: Named
    optimizer: Named
    schedule: Schedule | None
    clip: Annotated[StrictFloat, Field(gt=0)] | None
    ema: Annotated[StrictFloat, Field(gt=0, lt=1)] | None
    patience: Positive | None
    augment: Augment
    device: StrictStr
    precision: Literal["auto", "float32", "bfloat16"]
    channels_last: Switch
    compile: Switch
    fused: Switch
    tf32: Switch
    resident: Switch
    processes: Positive
    threads: Positive

    @model_validator(mode="after")
    def _check_accumulate(self) -> TrainParams:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate}, more than the {self.batch_size} rows of"
                " batch_size"
            )
        return self


@_section
class EvaluateParams:
    batch_size: Positive
    worst: Count
    resamples: Count
    slices: tuple[StrictStr, ...]


@_section
class GateParams:
    min_accuracy: Share
    metric: Literal["accuracy", "macro_recall", "macro_f1"]
    rule: Literal["no_worse", "better"]
    margin: Share
    confidence: Annotated[StrictFloat, Field(ge=0.5, lt=1)]
    min_slice: Positive
    slice_margin: Share
    on_undecided: Literal["refuse", "estimate", "promote"]
    max_shrink: Share
    on_new_contract: Literal["refuse", "promote"]


@_section
class RegisterParams:
    push_to: StrictStr


@_section
class Timeouts:
    """Hours that a stage or step of a flow may take, by where its faults come from."""

    network: Hours
    compute: Hours
    git: Hours


@_section
class RunParams:
    workers: Positive
    loader_workers: Count
    checkpoint_seconds: Seconds
    retries: Count
    timeouts: Timeouts
    cluster: (
        Annotated[StrictStr, Field(pattern=r"^(tcp|tls|ws|wss)://[\w.:\[\]-]+$", max_length=200)]
        | None
    )
    memo_bytes: Count


@_section
class Params:
    ingest: IngestParams
    validate: ValidateParams
    prepare: PrepareParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    gate: GateParams
    register: RegisterParams
    run: RunParams


_adapter = TypeAdapter(Params)


def load(tree: Path = Path()) -> Params:
    """Read `params.yaml` in `tree`.

    Raises:
        ParamsError: the file is missing or not YAML 1.2, or keys are unknown or missing or values
            wrong (all are listed).
    """
    file = tree.absolute() / FILE
    if not file.is_file():
        raise ParamsError(f"{FILE} is not in {tree.resolve()}; run this in a Ratchet checkout")
    stat = file.stat()
    return _parsed(file, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _parsed(file: Path, *_identity: int) -> Params:
    """The parsed file, kept because every stage and step of a flow asks for it and reading takes 0.03 s."""
    return parse(yaml_file.read(file))


def preset(file: Path) -> dict[str, Any]:
    """The values of a file such as `params/accurate.yaml` by dotted key, as `overrides.replaced` takes them.

    Raises:
        ParamsError: the file is missing or not a mapping. Keys and values are checked where they
            are used.
    """
    if not file.is_file():
        raise ParamsError(f"--params {file}: there is no such file; the presets are in params/")
    raw = yaml_file.read(file)
    if not isinstance(raw, dict):
        raise ParamsError(f"{file}: expected one KEY: VALUE per line, such as train.epochs: 12")
    return {str(key): json.dumps(value, default=str) for key, value in raw.items()}


def parse(raw: object) -> Params:
    """Check the content of `params.yaml`; raises `ParamsError` with one line per problem."""
    across = _across(raw)
    try:
        params = _adapter.validate_python(raw)
    except ValidationError as error:
        raise ParamsError(
            report(FILE, [*param_faults.problems(Params, raw, error), *across])
        ) from None
    if across:
        raise ParamsError(report(FILE, across))
    return params


def problems(raw: object) -> list[Problem]:
    """What is wrong with the content of `params.yaml`; nothing if it is valid."""
    try:
        _adapter.validate_python(raw)
    except ValidationError as error:
        return [*param_faults.problems(Params, raw, error), *_across(raw)]
    return _across(raw)


def _across(raw: object) -> list[Problem]:
    """What is wrong across sections, also where something else in them is wrong."""
    try:
        slices, keep = raw["evaluate"]["slices"], raw["ingest"]["keep"]  # type: ignore[index]  # any content of the file
        missing = [str(name) for name in slices if name not in keep]
    except (KeyError, TypeError):
        return []
    if not missing:
        return []
    text = (
        f"{', '.join(missing)} is not in ingest.keep; add it there, so that it is carried to the"
        " test rows"
    )
    return [Problem(("evaluate", "slices"), text=text)]


def report(heading: str, found: Sequence[object]) -> str:
    """A heading with the number of problems, and a line for each."""
    count = f"{len(found)} problems" if len(found) > 1 else "1 problem"
    return "\n".join([f"{heading}: {count}", *(f"  {problem}" for problem in found)])
