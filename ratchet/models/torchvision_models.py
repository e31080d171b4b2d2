"""The classifiers of `torchvision.models`, adapted to the data.

The first convolution gets the channels of the images, and the head gets the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torchvision
from torch import nn


@cache
def names() -> list[str]:
    """List every classifier that torchvision has."""
    return sorted(torchvision.models.list_models(module=torchvision.models))


def published_parameters(name: str) -> int:
    """Return the number of parameters that torchvision publishes for its ImageNet weights."""
    return int(torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"])


def maker(name: str) -> Callable[..., nn.Module]:
    """Return a function that builds the classifier `name` for given data.

    The function takes `input_shape`, (channels, height, width), `classes` and torchvision's own
    keyword arguments. It raises `ValueError` if the rows are not images.
    """

    def make(input_shape: Sequence[int], classes: int, **arguments: Any) -> nn.Module:
        if len(input_shape) != 3:
            raise ValueError(
                f"{name} takes images (channels, height, width), but found rows of shape "
                f"{tuple(input_shape)}"
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
    """Return the arguments that `name` needs in addition."""
    if name in ("googlenet", "inception_v3"):
        # Their auxiliary heads return tuples in training and require one image size.
        return {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        return {"image_size": input_shape[-1]}
    return {}


def _replace_first_convolution(model: nn.Module, channels: int) -> None:
    """Replace the first convolution with one for `channels` input channels, otherwise equal."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _with_channels(module, channels))
            return
    raise AssertionError("every classifier of torchvision has a convolution")


def _with_channels(convolution: nn.Conv2d, channels: int) -> nn.Conv2d:
    geometry: dict[str, Any] = {
        "kernel_size": convolution.kernel_size,
        "stride": convolution.stride,
        "padding": convolution.padding,
        "dilation": convolution.dilation,
    }
    has_bias = convolution.bias is not None
    groups, outputs = convolution.groups, convolution.out_channels
    return nn.Conv2d(channels, outputs, **geometry, groups=groups, bias=has_bias)
