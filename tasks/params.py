"""params.yaml as frozen dataclasses, checked by pydantic: unknown keys are refused and nothing has a default.

The file is read as YAML 1.2, as DVC reads it, so that both see the same values. DVC cannot see a default that changes
inside a class, hence none here.
"""

from __future__ import annotations

import difflib
import functools
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from tasks.errors import ParamsError

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
    on_undecided: Literal["refuse", "promote"]
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
        ParamsError: the file is missing or no YAML 1.2, or values in it are unknown, missing or wrong (all are named).
    """
    file = tree.absolute() / FILE
    if not file.is_file():
        raise ParamsError(f"{FILE} is not in {tree.resolve()}; run this in a Ratchet checkout")
    stat = file.stat()
    return _parsed(file, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _parsed(file: Path, *_identity: int) -> Params:
    """The file as it stands; every stage and step of a flow asks, and reading it takes 0.03 s."""
    return parse(_read(file))


def preset(file: Path) -> dict[str, str]:
    """The lines of a file such as `params/accurate.yaml`: values by dotted key, as `ratchet train --set` takes them.

    Raises:
        ParamsError: there is no such file, or it holds something else. Keys and values are checked where they are used.
    """
    if not file.is_file():
        raise ParamsError(f"--params {file}: there is no such file; presets lie in params/")
    raw = _read(file)
    if not isinstance(raw, dict):
        raise ParamsError(f"{file}: expected a line KEY: VALUE for each value, such as train.epochs: 12")
    return {str(key): json.dumps(value, default=str) for key, value in raw.items()}


def _read(file: Path) -> object:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{file.name} is no YAML 1.2: {' '.join(str(error).split())}") from None


def parse(raw: object) -> Params:
    """Check the content of `params.yaml`; raises `ParamsError` with one line per fault."""
    try:
        return _adapter.validate_python(raw)
    except ValidationError as error:
        faults = [_fault(raw, dict(fault)) for fault in error.errors(include_url=False)]
        raise ParamsError(f"{FILE}: {len(faults)} to mend\n" + "\n".join(f"  {fault}" for fault in faults)) from None


def _fault(raw: object, fault: dict[str, Any]) -> str:
    """One line for one fault: the key, the value found, what was expected."""
    path = _path(raw, fault["loc"])
    key = ".".join(map(str, path)) or "the whole file"
    if fault["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(str(path[-1]), _keys(), n=1)
        return f"{key}: unknown key; " + (f"did you mean {near[0]}?" if near else "take it out")
    if fault["type"] == "missing":
        return f"{key}: missing; every value has to stand in {FILE}"
    return f"{key}: found {fault['input']!r}; {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _path(raw: object, location: tuple[int | str, ...]) -> list[int | str]:
    """The keys of `location` as they stand in the file: pydantic adds the name of a source's type to them."""
    path: list[int | str] = []
    for part in location[:-1]:
        if (isinstance(raw, dict) and part in raw) or (isinstance(raw, list) and isinstance(part, int)):
            raw = raw[part]  # type: ignore[index]  # raw is whatever YAML held
            path.append(part)
    return [*path, *location[-1:]]


def _keys() -> list[str]:
    sections = (value for value in globals().values() if isinstance(value, type) and is_dataclass(value))
    return sorted({field.name for section in sections for field in fields(section)})
