"""The classifiers of `torchvision.models`, adapted to the data: first convolution to the channels, head to the classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torchvision
from torch import nn


@cache
def names() -> list[str]:
    """Every classifier that torchvision has."""
    return sorted(torchvision.models.list_models(module=torchvision.models))


def published_parameters(name: str) -> int:
    """The number of parameters that torchvision states with its weights for ImageNet."""
    return int(torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"])


def maker(name: str) -> Callable[..., nn.Module]:
    def make(input_shape: Sequence[int], classes: int, **arguments: Any) -> nn.Module:
        if len(input_shape) != 3:
            raise ValueError(
                f"{name} takes images (channels, height, width), found rows of shape"
                f" {tuple(input_shape)}"
            )
        extra = _extra(name, input_shape)
        model: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=classes, **{**extra, **arguments}
        )
        if input_shape[0] != 3:
            _replace_first_convolution(model, input_shape[0])
        return model

    return make


def _extra(name: str, input_shape: Sequence[int]) -> dict[str, Any]:
    if name in (
        "googlenet",
        "inception_v3",
    ):  # their side heads give tuples while training, for images of one size
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": input_shape[-1]}
    return {}


def _replace_first_convolution(model: nn.Module, channels: int) -> None:
    """Give the first convolution `channels` input channels; everything else of it stays."""
    path, old = next(
        (path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d)
    )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]  # nn.Conv2d annotates its own tuples too widely
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        dilation=old.dilation,  # type: ignore[arg-type]
        groups=old.groups,
        bias=old.bias is not None,
    )
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
