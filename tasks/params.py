"""params.yaml as frozen dataclasses, checked by pydantic: unknown keys are refused and nothing has a default.

The file is read as YAML 1.2, as DVC reads it, so that both see the same values. DVC cannot see a default that changes
inside a class, hence none here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tasks import param_faults, yaml_file
from tasks.errors import ParamsError
from tasks.param_faults import Problem

FILE = "params.yaml"

_T = TypeVar("_T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def _section(cls: type[_T]) -> type[_T]:
    return cast("type[_T]", dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls))


Count = Annotated[StrictInt, Field(ge=0)]
Positive = Annotated[StrictInt, Field(ge=1)]
Share = Annotated[StrictFloat, Field(ge=0, le=1)]
Seconds = Annotated[StrictFloat, Field(gt=0)]
Hours = Annotated[StrictFloat, Field(gt=0)]
PathText = Annotated[StrictStr, Field(pattern=r"^[^\x00-\x1f]+$", max_length=1000)]
Split = Literal["train", "val", "test"]


@_section
class TorchvisionSource:
    type: Literal["torchvision"]
    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z]\w*$", max_length=100)]
    root: PathText | None
    arguments: dict[str, Any]


@_section
class ParquetSource:
    type: Literal["parquet"]
    path: PathText
    label: StrictStr
    image: StrictStr | None
    features: tuple[StrictStr, ...] | None


@_section
class HuggingFaceSource:
    type: Literal["huggingface"]
    repository: Annotated[StrictStr, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$", max_length=200)]
    config: StrictStr | None
    revision: Annotated[StrictStr, Field(pattern=r"^\w[\w./-]*$", max_length=200)] | None
    splits: dict[Split, StrictStr]
    label: StrictStr
    image: StrictStr | None
    features: tuple[StrictStr, ...] | None


@_section
class ImageFolderSource:
    type: Literal["imagefolder"]
    path: PathText


@_section
class CsvSource:
    type: Literal["csv"]
    path: PathText
    label: StrictStr
    features: Annotated[tuple[StrictStr, ...], Field(min_length=1)]


@_section
class CustomSource:
    type: Literal["custom"]
    source: Annotated[StrictStr, Field(pattern=r"^custom(\.[A-Za-z_]\w*)+:[A-Za-z_]\w*$", max_length=200)]
    arguments: dict[str, Any]


Source = Annotated[
    TorchvisionSource | ParquetSource | HuggingFaceSource | ImageFolderSource | CsvSource | CustomSource,
    Field(discriminator="type"),
]


@_section
class IngestParams:
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    shard_rows: Positive
    keep: tuple[StrictStr, ...]


@_section
class Rules:
    """What the values of one column have to keep."""

    dtype: Literal["int", "float", "string"] | None
    min: StrictFloat | None
    max: StrictFloat | None
    allowed: tuple[StrictStr | StrictInt | StrictFloat, ...] | None
    nullable: StrictBool


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
    cluster: Annotated[StrictStr, Field(pattern=r"^(tcp|tls|ws|wss)://[\w.:\[\]-]+$", max_length=200)] | None
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
        ParamsError: the file is missing or not YAML 1.2, or keys are unknown or missing or values wrong (all are listed).
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
        ParamsError: the file is missing or not a mapping. Keys and values are checked where they are used.
    """
    if not file.is_file():
        raise ParamsError(f"--params {file}: there is no such file; the presets are in params/")
    raw = yaml_file.read(file)
    if not isinstance(raw, dict):
        raise ParamsError(f"{file}: expected one KEY: VALUE per line, such as train.epochs: 12")
    return {str(key): json.dumps(value, default=str) for key, value in raw.items()}


def parse(raw: object) -> Params:
    """Check the content of `params.yaml`; raises `ParamsError` with one line per problem."""
    try:
        return _adapter.validate_python(raw)
    except ValidationError as error:
        raise ParamsError(report(FILE, param_faults.problems(Params, raw, error))) from None


def problems(raw: object) -> list[Problem]:
    """What is wrong with the content of `params.yaml`; nothing if it is valid."""
    try:
        _adapter.validate_python(raw)
    except ValidationError as error:
        return param_faults.problems(Params, raw, error)
    return []


def report(heading: str, found: Sequence[object]) -> str:
    """A heading with the number of problems, and a line for each."""
    count = f"{len(found)} problems" if len(found) > 1 else "1 problem"
    return "\n".join([f"{heading}: {count}", *(f"  {problem}" for problem in found)])
