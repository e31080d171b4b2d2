"""Models by name.

A named architecture never changes, so that every old version keeps loading: a change is a new name.

`build` knows the models below, every classifier of `torchvision.models` (zoo.py) and classes in
`custom/models/`. A model takes (N, *input_shape) float32 and gives (N, classes) scores, or (N, 1)
where there are two classes.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
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
    """Make the model `name` with random weights.

    A class is called with those of `input_shape` and `classes` it takes.

    Args:
        arguments: keyword arguments of that model.
        input_shape: (channels, height, width) of an image, or (features,).
        classes: number of classes, 2 or more.
        package: where a class of `custom/` comes from; an old version's has a name of its own
            (custom_code.package).

    Raises:
        TrainingError: no such model, arguments that it does not take, or inputs that it is not made
            for.
    """
    make = _maker(name, package)
    taken = inspect.signature(make).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values())
    unknown = [key for key in arguments if key not in taken and not takes_any]
    if unknown:
        expected = (
            ", ".join(key for key in taken if key not in ("input_shape", "classes")) or "none"
        )
        raise TrainingError(
            f"model.arguments: {name} takes no {', '.join(unknown)}; it takes: {expected}"
        )
    of_data = {"input_shape": tuple(input_shape), "classes": classes}
    offered = {key: value for key, value in of_data.items() if key in taken or takes_any}
    try:
        model = make(**{**offered, **arguments})
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainingError(
            f"model: {name} cannot be made with {dict(arguments)}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise TrainingError(
            f"model: {name} gives a {type(model).__name__}, expected a torch.nn.Module"
        )
    return model


def names() -> list[str]:
    """Every name that `build` knows, less those in `custom/`."""
    from ratchet.models import torchvision_models

    return [*OWN, *torchvision_models.names()]


def described() -> dict[str, int]:
    """Every name with its number of trained values.

    Ours for ten classes of 28 x 28 grey images (`simple_net`: of ten features), torchvision's as it
    publishes them, for ImageNet's thousand classes.
    """
    from ratchet.models import torchvision_models

    shapes = {"simple_net": (10,)}
    ours = {
        name: parameters(
            build(name, {}, shapes.get(name, (1, 28, 28)), 2 if name in shapes else 10)
        )
        for name in OWN
    }
    return ours | {
        name: torchvision_models.published_parameters(name) for name in torchvision_models.names()
    }


def parameters(model: nn.Module) -> int:
    """The number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())


def _maker(name: str, package: str) -> Callable[..., nn.Module]:
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
    module, _, attribute = name.partition(":")
    if not module.startswith("custom.") or not all(
        part.isidentifier() for part in [*module.split("."), attribute]
    ):
        raise TrainingError(
            f"model.name: {name!r} is not a class in custom/; expected"
            " custom.models.<module>:<Class>"
        )
    try:
        made: Callable[..., nn.Module] = getattr(
            importlib.import_module(package + module.removeprefix("custom")), attribute
        )
    except (ImportError, AttributeError, SyntaxError) as error:
        raise TrainingError(f"model.name: {name!r} cannot be imported: {error}") from error
    return made


def _features(input_shape: Sequence[int]) -> int:
    size = 1
    for extent in input_shape:
        size *= extent
    return size


def _channels(name: str, input_shape: Sequence[int]) -> int:
    if len(input_shape) != 3:
        raise ValueError(
            f"{name} takes images (channels, height, width), found rows of shape"
            f" {tuple(input_shape)}"
        )
    return input_shape[0]


def simple_net(
    input_shape: Sequence[int], classes: int, hidden: int = 50, dropout: float = 0.5
) -> nn.Module:
    """The probability of the second of two classes, (N, 1): linear, ReLU, dropout, linear, sigmoid.

    For `BCELoss`.
    """
    if classes != 2:
        raise ValueError(f"simple_net tells two classes apart, the data have {classes}; take mlp")
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
    before = _features(input_shape)
    for width in widths:
        layers += [nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout)]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, classes))


def cnn(
    input_shape: Sequence[int],
    classes: int,
    widths: Sequence[int] = (32, 64),
    hidden: int = 128,
    dropout: float = 0.3,
) -> nn.Module:
    """A 3×3 convolution per width, each pooled *before* its batch normalisation and ReLU, then two linear layers.

    Pooled first, the element-wise layers see a quarter of the values: 1.5 times the images a second
    at the same accuracy.
    """
    before, height, width = _channels("cnn", input_shape), *input_shape[1:]
    layers: list[nn.Module] = []
    for after in widths:
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
        before, height, width = after, height // 2, width // 2
    if not height * width:
        raise ValueError(
            f"images of {input_shape[1]}×{input_shape[2]} pixels cannot be halved {len(widths)}"
            " times"
        )
    head = [
        nn.Flatten(),
        nn.Linear(before * height * width, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
    ]
    return nn.Sequential(*layers, *head, nn.Linear(hidden, classes))


class _Residual(nn.Module):
    """Two 3×3 convolutions around a short cut (He et al., 2016, arXiv:1512.03385)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.short = (
            nn.Sequential() if before == after and stride == 1 else _shortcut(before, after, stride)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm1(self.conv1(inputs)).relu_()
        total: Tensor = self.norm2(self.conv2(hidden)) + self.short(inputs)
        return total.relu_()


def _shortcut(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def resnet_small(
    input_shape: Sequence[int], classes: int, widths: Sequence[int] = (32, 64, 128), blocks: int = 1
) -> nn.Module:
    """A residual network for small images: `blocks` blocks per width, each width after the first at half the size.

    The first convolution is pooled before its normalisation, as in `cnn`: 2.5 times the images a
    second.
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
    """As `resnet_small`, and a convolution with `stem` channels that sees every pixel before anything is pooled."""
    first = nn.Conv2d(_channels("resnet_medium", input_shape), stem, 3, padding=1, bias=False)
    return nn.Sequential(
        first,
        nn.BatchNorm2d(stem),
        nn.ReLU(),
        *_pooled(stem, widths[0]),
        *_residuals(widths, blocks, classes),
    )


def _pooled(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    ]


def _residuals(widths: Sequence[int], blocks: int, classes: int) -> list[nn.Module]:
    """The blocks and the head."""
    layers: list[nn.Module] = []
    before = widths[0]
    for stage, after in enumerate(widths):
        for block in range(blocks):
            layers.append(_Residual(before, after, stride=2 if stage and not block else 1))
            before = after
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]


OWN: dict[str, Callable[..., nn.Module]] = {
    "simple_net": simple_net,
    "mlp": mlp,
    "cnn": cnn,
    "resnet_small": resnet_small,
    "resnet_medium": resnet_medium,
}
