"""params.yaml as frozen dataclasses that pydantic checks; docs/training.md explains each key.

Unknown keys are rejected, and no key has a default, because DVC cannot see a default that changes
inside a class. The only exception are the keys of sources that can be null. The file is read as
YAML 1.2, as DVC reads it, so that both see the same values.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ratchet import param_faults, yaml_file
from ratchet.errors import ParamsError
from ratchet.param_faults import Problem
from ratchet.param_types import ColumnNames, Count, Hours, Positive, Seconds, Share, section
from ratchet.source_params import Source
from ratchet.train_params import ModelParams, TrainParams

FILE = "params.yaml"


@section
class IngestParams:
    """What to read."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    shard_rows: Positive
    keep: ColumnNames


@section
class Rules:
    """The rules for the values of one column; null means no rule."""

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
                "min and max are for numbers, and dtype is string;"
                " set them to null, or use dtype float"
            )
        return self


@section
class Warn:
    """The shares of rows from which the report of the validation warns."""

    duplicate: Share
    leak: Share
    conflict: Share
    other: Share
    imbalance: Annotated[StrictFloat, Field(ge=1)]


@section
class ValidateParams:
    """What makes a row or the data set bad."""

    max_bad_fraction: Share
    max_pixels: Annotated[StrictInt, Field(ge=1, le=178_956_970)]
    columns: dict[StrictStr, Rules]
    unique: tuple[StrictStr, ...]
    may_be_empty: tuple[StrictStr, ...]
    warn: Warn


@section
class PrepareParams:
    """The form of the images, and the shares of the splits."""

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
                f"val_fraction and test_fraction add up to {total:g};"
                " they must leave rows for training"
            )
        return self


@section
class EvaluateParams:
    """What the evaluation reports."""

    batch_size: Positive
    worst: Count
    resamples: Count
    slices: tuple[StrictStr, ...]


@section
class GateParams:
    """The rules of the gate."""

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


@section
class RegisterParams:
    """Where a new version is published: the name of a git remote, or "" for nowhere."""

    push_to: StrictStr


@section
class Timeouts:
    """Hours that a stage or step of a flow may take, by the kind of its faults."""

    network: Hours
    compute: Hours
    git: Hours


@section
class RunParams:
    """How a run uses the machine; these values change no output."""

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


@section
class Params:
    """All of params.yaml."""

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
        ParamsError: the file is missing or not YAML 1.2, or it has problems, all of which the
            message lists.
    """
    file = tree.absolute() / FILE
    if not file.is_file():
        raise ParamsError(f"{FILE} is not in {tree.resolve()}; run this in a Ratchet checkout")
    stat = file.stat()
    return _parsed(file, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _parsed(file: Path, *_identity: int) -> Params:
    """Parse the file, which takes 0.03 s; cached because each stage and step of a flow loads it."""
    return parse(yaml_file.read(file))


def parse(raw: object) -> Params:
    """Check the content of `params.yaml`.

    Raises:
        ParamsError: there are problems; the message has one line for each.
    """
    across = _problems_across_sections(raw)
    try:
        params = _adapter.validate_python(raw)
    except ValidationError as error:
        inside = param_faults.problems(Params, raw, error)
        raise ParamsError(report(FILE, [*inside, *across])) from None
    if across:
        raise ParamsError(report(FILE, across))
    return params


def problems(raw: object) -> list[Problem]:
    """Return the problems of the content of `params.yaml`; none if it is valid."""
    across = _problems_across_sections(raw)
    try:
        _adapter.validate_python(raw)
    except ValidationError as error:
        return [*param_faults.problems(Params, raw, error), *across]
    return across


def _problems_across_sections(raw: Any) -> list[Problem]:
    """Return the problems between sections, as far as the content allows to find them."""
    try:
        slices, keep = raw["evaluate"]["slices"], raw["ingest"]["keep"]
        missing = [str(name) for name in slices if name not in keep]
    except (KeyError, TypeError):
        return []
    if not missing:
        return []
    text = (
        f"{', '.join(missing)} is not in ingest.keep;"
        " add it there, so that the test rows have that column"
    )
    return [Problem(("evaluate", "slices"), text=text)]


def report(heading: str, items: Sequence[object]) -> str:
    """Return the heading with the number of problems, and a line for each problem."""
    count = f"{len(items)} problems" if len(items) > 1 else "1 problem"
    return "\n".join([f"{heading}: {count}", *(f"  {problem}" for problem in items)])
