"""The sections `model` and `train` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictStr, model_validator

from ratchet.param_types import Count, Positive, Share, section


@section
class Named:
    """A class of PyTorch by its name, and the keyword arguments of its constructor."""

    name: StrictStr
    arguments: dict[str, Any]


@section
class Pretrained:
    """A file with the weights to start from."""

    file: StrictStr
    sha256: Annotated[StrictStr, Field(pattern="^[0-9a-f]{64}$")]


@section
class ModelParams:
    """The architecture of the model."""

    name: StrictStr
    arguments: dict[str, Any]
    pretrained: Pretrained | None


@section
class Schedule:
    """A schedule of the learning rate, from `torch.optim.lr_scheduler`."""

    name: StrictStr
    arguments: dict[str, Any]
    every: Literal["step", "epoch"]


@section
class Augment:
    """The augmentation of training images."""

    flip: StrictBool
    crop: Count
    erase: Share
    mixup: Annotated[StrictFloat, Field(ge=0)]
    cutmix: Annotated[StrictFloat, Field(ge=0)]


Switch = Literal["auto"] | StrictBool


@section
class TrainParams:
    """The recipe of the training and its devices."""

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
                f"accumulate is {self.accumulate},"
                f" more than the {self.batch_size} rows of batch_size"
            )
        return self
