"""Models by name.

A named architecture never changes, so that every old version keeps loading. A changed architecture
gets a new name.

`build` knows the models below, every classifier of `torchvision.models` (torchvision_models.py) and
classes in `custom/models/`. A model maps (N, *input_shape) float32 to (N, classes) scores, or to
(N, 1) if there are two classes.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ratchet.errors import TrainingError


def build(
    name: str,
    arguments: Mapping[str, Any],
    input_shape: Sequence[int],
    classes: int,
    package: str = "custom",
) -> nn.Module:
    """Build the model `name` with random weights.

    The model receives `input_shape` and `classes` if it has parameters of these names.

    Args:
        name: a name from `names`, or `custom.models.<module>:<Class>`.
        arguments: keyword arguments of that model.
        input_shape: (channels, height, width) of an image, or (features,).
        classes: number of classes, 2 or more.
        package: the package that stands for `custom`; an old version has a package of its own
            (custom_code.package).

    Raises:
        TrainingError: the model does not exist, or it does not take these arguments or inputs.
    """
    make = _maker(name, package)
    signature = inspect.signature(make).parameters
    kinds = [parameter.kind for parameter in signature.values()]
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    unknown = [key for key in arguments if key not in signature and not takes_any]
    if unknown:
        own = [key for key in signature if key not in ("input_shape", "classes")]
        expected = ", ".join(own) or "none"
        raise TrainingError(
            f"model.arguments: {name} takes no {', '.join(unknown)}; it takes: {expected}"
        )
    shapes = {"input_shape": tuple(input_shape), "classes": classes}
    keywords = {key: value for key, value in shapes.items() if key in signature or takes_any}
    try:
        model = make(**{**keywords, **arguments})
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(
            f"model: {name} cannot be built with {dict(arguments)}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise TrainingError(
            f"model: {name} returns a {type(model).__name__}; expected a torch.nn.Module"
        )
    return model


def names() -> list[str]:
    """List every name that `build` knows, except those in `custom/`."""
    from ratchet.models import torchvision_models

    return [*OWN, *torchvision_models.names()]


def parameter_counts() -> dict[str, int]:
    """Return the number of parameters of every name.

    Ratchet's own models are counted for ten classes of 28×28 grey images, and `simple_net` for two
    classes of ten features. For the others, torchvision publishes the number for the 1,000 classes
    of ImageNet.
    """
    from ratchet.models import torchvision_models

    counts = {}
    for name in OWN:
        shape, classes = ((10,), 2) if name == "simple_net" else ((1, 28, 28), 10)
        counts[name] = parameters(build(name, {}, shape, classes))
    for name in torchvision_models.names():
        counts[name] = torchvision_models.published_parameters(name)
    return counts


def parameters(model: nn.Module) -> int:
    """Count the parameters of `model`."""
    return sum(parameter.numel() for parameter in model.parameters())


def _maker(name: str, package: str) -> Callable[..., nn.Module]:
    """Return the function or class that builds `name`; raise `TrainingError` if there is none."""
    if name in OWN:
        return OWN[name]
    if ":" in name:
        return _custom(name, package)
    from ratchet.models import torchvision_models

    if name in torchvision_models.names():
        return torchvision_models.maker(name)
    near = difflib.get_close_matches(name, names(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`ratchet models` lists them"
    raise TrainingError(f"model.name: there is no model {name!r}; {hint}")


def _custom(name: str, package: str) -> Callable[..., nn.Module]:
    """Import the class `name` from `package`, which stands for `custom`."""
    module, _, attribute = name.partition(":")
    parts = [*module.split("."), attribute]
    if not module.startswith("custom.") or not all(part.isidentifier() for part in parts):
        raise TrainingError(
            f"model.name: {name!r} is not a class in custom/; "
            "expected custom.models.<module>:<Class>"
        )
    try:
        code = importlib.import_module(package + module.removeprefix("custom"))
        kind: Callable[..., nn.Module] = getattr(code, attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise TrainingError(f"model.name: {name!r} cannot be imported: {error}") from error
    return kind


def _features(input_shape: Sequence[int]) -> int:
    """Count the values of one input."""
    return math.prod(input_shape)


def _channels(name: str, input_shape: Sequence[int]) -> int:
    if len(input_shape) != 3:
        raise ValueError(
            f"{name} takes images (channels, height, width), but found rows of shape "
            f"{tuple(input_shape)}"
        )
    return input_shape[0]


def simple_net(
    input_shape: Sequence[int], classes: int, hidden: int = 50, dropout: float = 0.5
) -> nn.Module:
    """Linear, ReLU, dropout, linear, sigmoid, for two classes and `BCELoss`.

    The output, (N, 1), is the probability of the second class.
    """
    if classes != 2:
        raise ValueError(f"simple_net is for two classes, but the data have {classes}; use mlp")
    first = nn.Linear(_features(input_shape), hidden)
    return nn.Sequential(
        nn.Flatten(), first, nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 1), nn.Sigmoid()
    )


def mlp(
    input_shape: Sequence[int],
    classes: int,
    widths: Sequence[int] = (256, 128),
    dropout: float = 0.2,
) -> nn.Module:
    """Fully connected layers of `widths`, each with ReLU and dropout."""
    layers: list[nn.Module] = [nn.Flatten()]
    last = _features(input_shape)
    for width in widths:
        layers += [nn.Linear(last, width), nn.ReLU(), nn.Dropout(dropout)]
        last = width
    return nn.Sequential(*layers, nn.Linear(last, classes))


def cnn(
    input_shape: Sequence[int],
    classes: int,
    widths: Sequence[int] = (32, 64),
    hidden: int = 128,
    dropout: float = 0.3,
) -> nn.Module:
    """A 3×3 convolution per width, then two linear layers.

    Each convolution is pooled *before* its batch normalisation and ReLU, which then see a quarter
    of the values. This gives 1.5 times the images per second at the same accuracy.
    """
    channels, height, width = _channels("cnn", input_shape), *input_shape[1:]
    layers: list[nn.Module] = []
    for after in widths:
        layers += _pooled(channels, after)
        channels, height, width = after, height // 2, width // 2
    if not height * width:
        raise ValueError(
            f"images of {input_shape[1]}×{input_shape[2]} pixels cannot be halved {len(widths)} "
            "times; use fewer widths"
        )
    head = [
        nn.Flatten(),
        nn.Linear(channels * height * width, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
    ]
    return nn.Sequential(*layers, *head, nn.Linear(hidden, classes))


class _Residual(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al., 2016, arXiv:1512.03385)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.short = _shortcut(before, after, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm1(self.conv1(inputs)).relu_()
        total: Tensor = self.norm2(self.conv2(hidden)) + self.short(inputs)
        return total.relu_()


def _shortcut(before: int, after: int, stride: int) -> nn.Module:
    """Return the identity, or a 1×1 convolution if the shape changes."""
    if before == after and stride == 1:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def resnet_small(
    input_shape: Sequence[int], classes: int, widths: Sequence[int] = (32, 64, 128), blocks: int = 1
) -> nn.Module:
    """A residual network for small images, with `blocks` blocks per width.

    Each width after the first halves the height and width of the images. The first convolution is
    pooled before its normalisation, as in `cnn`, which gives 2.5 times the images per second.
    """
    stem = _pooled(_channels("resnet_small", input_shape), widths[0])
    return nn.Sequential(*stem, *_residuals(widths, blocks, classes))


def resnet_medium(
    input_shape: Sequence[int],
    classes: int,
    stem: int = 16,
    widths: Sequence[int] = (64, 128, 256),
    blocks: int = 1,
) -> nn.Module:
    """`resnet_small` after a convolution with `stem` channels at full resolution."""
    first = nn.Conv2d(_channels("resnet_medium", input_shape), stem, 3, padding=1, bias=False)
    return nn.Sequential(
        first,
        nn.BatchNorm2d(stem),
        nn.ReLU(),
        *_pooled(stem, widths[0]),
        *_residuals(widths, blocks, classes),
    )


def _pooled(before: int, after: int) -> list[nn.Module]:
    """Convolve, pool, normalise, then apply ReLU, at half the height and width."""
    return [
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    ]


def _residuals(widths: Sequence[int], blocks: int, classes: int) -> list[nn.Module]:
    """Build the residual blocks and the head."""
    layers: list[nn.Module] = []
    last = widths[0]
    for stage, after in enumerate(widths):
        for block in range(blocks):
            layers.append(_Residual(last, after, stride=2 if stage and not block else 1))
            last = after
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)]


OWN: dict[str, Callable[..., nn.Module]] = {
    "simple_net": simple_net,
    "mlp": mlp,
    "cnn": cnn,
    "resnet_small": resnet_small,
    "resnet_medium": resnet_medium,
}
