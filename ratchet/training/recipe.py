"""Build the loss, the optimizer and the schedule by their PyTorch names.

Every name and every keyword argument is checked before training starts.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn, optim
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ratchet.errors import TrainingError
from ratchet.train_params import Named, Schedule, TrainParams

T = TypeVar("T")

# Arguments of a loss that Ratchet fixes: a step divides by the weights of its whole batch, and
# every row has a class.
FIXED = {"reduction": "mean", "ignore_index": -100, "size_average": None, "reduce": None}
# The `weight` argument of these losses weights columns, not classes.
BY_ROW = ("BCELoss", "BCEWithLogitsLoss")


def criterion(settings: Named, counts: Tensor) -> nn.Module:
    """Build the loss. `weight: balanced` weights each class by rows / (classes · its rows).

    Args:
        settings: name and arguments, the section `train.criterion`.
        counts: (classes,) int64, training rows per class.

    Raises:
        TrainingError: the loss does not exist, or it does not take these arguments.
    """
    arguments = dict(settings.arguments)
    for key, only in FIXED.items():
        if arguments.get(key, only) != only:
            raise TrainingError(
                f"train.criterion.arguments: {key}: {arguments[key]} is not supported, because a "
                "step takes the mean over all rows of its batch; "
                f"leave {key} out"
            )
    row_weight = arguments.pop("weight", None) if settings.name in BY_ROW else None
    if row_weight not in (None, "balanced"):
        raise TrainingError(
            f"train.criterion.arguments: weight: {row_weight} would weight the outputs of "
            f"{settings.name}, not the classes; "
            "use weight: balanced, or pos_weight of BCEWithLogitsLoss"
        )
    if row_weight is not None:
        arguments["reduction"] = "none"  # heads.loss takes the weighted mean
    arguments = {key: _tensor(key, value, counts) for key, value in arguments.items()}
    settings = Named(name=settings.name, arguments=arguments)
    loss = _make("train.criterion", nn, nn.Module, settings, suffix="Loss")
    if row_weight is not None:
        loss.register_buffer("row_weights", _balanced(counts))
    return loss


def optimizer(params: TrainParams, model: nn.Module, fused: bool) -> optim.Optimizer:
    """Build the optimizer over all trainable weights of `model`.

    Args:
        params: the section `train`.
        model: the model to train.
        fused: use the fused kernels, if the optimizer has them.

    Raises:
        TrainingError: the optimizer does not exist, does not take these arguments, or needs
            closures or sparse gradients.
    """
    settings = params.optimizer
    kind = _class("train.optimizer", optim, optim.Optimizer, settings.name)
    if settings.name in ("LBFGS", "SparseAdam"):
        raise TrainingError(
            f"train.optimizer: {settings.name} is not supported, because it needs closures or "
            "sparse gradients; choose another optimizer"
        )
    arguments = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings.arguments.items()
    }
    if fused and "fused" in inspect.signature(kind).parameters:
        arguments = {"fused": True, **arguments}
    settings = Named(name=settings.name, arguments=arguments)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return _make("train.optimizer", optim, optim.Optimizer, settings, weights, params.lr)


def schedule(params: TrainParams, optimizer: optim.Optimizer, steps: int) -> LRScheduler | None:
    """Build the learning-rate schedule, or return None if the params have none.

    `max_lr` defaults to `train.lr`. `total_steps` and `T_max` default to the length of the run.

    Args:
        params: the section `train`.
        optimizer: the optimizer whose learning rate the schedule changes.
        steps: steps (or epochs, for `every: epoch`) that training takes.

    Raises:
        TrainingError: the schedule does not exist, or it does not take these arguments.
    """
    if params.schedule is None:
        return None
    settings: Schedule = params.schedule
    kind = _class("train.schedule", lr_scheduler, LRScheduler, settings.name)
    defaults = {"max_lr": params.lr, "total_steps": steps, "T_max": steps}
    parameters = inspect.signature(kind).parameters
    arguments = {key: value for key, value in defaults.items() if key in parameters}
    if settings.name == "ReduceLROnPlateau" and settings.every != "epoch":
        raise TrainingError(
            "train.schedule.every: ReduceLROnPlateau follows the validation loss; expected epoch"
        )
    complete = Named(name=settings.name, arguments={**arguments, **settings.arguments})
    return _make("train.schedule", lr_scheduler, LRScheduler, complete, optimizer)


def _balanced(counts: Tensor) -> Tensor:
    """Weight each class by rows / (classes · its rows): (classes,) float32."""
    return counts.sum() / (len(counts) * counts.clamp(min=1).float())


def _tensor(key: str, value: Any, counts: Tensor) -> Any:
    """Convert the class weights in an argument to a tensor; return other arguments unchanged."""
    if key == "weight" and value == "balanced":
        return _balanced(counts)
    if key not in ("weight", "pos_weight") or value is None:
        return value
    if not isinstance(value, list) or not all(
        isinstance(number, (int, float)) and number > 0 for number in value
    ):
        expected = "balanced, or a list" if key == "weight" else "a list"
        raise TrainingError(
            f"train.criterion.arguments: {key}: {value} is not supported; "
            f"expected {expected} of numbers above 0"
        )
    if key == "weight" and len(value) != len(counts):
        raise TrainingError(
            f"train.criterion.arguments: weight has {len(value)} numbers, but the data have "
            f"{len(counts)} classes; "
            "write one number per class, in the order of spec.json"
        )
    return torch.tensor(value, dtype=torch.float32)


def _make(
    where: str,
    module: ModuleType,
    base: type[T],
    settings: Named,
    *positional: Any,
    suffix: str = "",
) -> T:
    """Call the class that `settings` names with `positional` and its own arguments."""
    kind = _class(where, module, base, settings.name, suffix)
    signature = inspect.signature(kind)
    unknown = [key for key in settings.arguments if key not in signature.parameters]
    if unknown:
        names = list(signature.parameters)[len(positional) :]
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it takes: {', '.join(names)}"
        raise TrainingError(
            f"{where}.arguments: {settings.name} takes no {', '.join(unknown)}; {hint}"
        )
    try:
        return kind(*positional, **settings.arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"{where}: {settings.name} cannot be built with {dict(settings.arguments)}: {error}"
        ) from error


def _class(
    where: str, module: ModuleType, base: type[T], name: str, suffix: str = ""
) -> Callable[..., T]:
    """Return the class `name` of `module`; raise `TrainingError` with the nearest names."""
    member = getattr(module, name, None)
    if (
        inspect.isclass(member)
        and issubclass(member, base)
        and member is not base
        and name.endswith(suffix)
    ):
        return member
    names = _names(vars(module), base, suffix)
    near = difflib.get_close_matches(name, names, n=3)
    near = near or [candidate for candidate in names if name.lower() in candidate.lower()][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of: {', '.join(names)}"
    raise TrainingError(f"{where}.name: {module.__name__} has no {name!r}; {hint}")


def _names(members: Mapping[str, Any], base: type, suffix: str) -> list[str]:
    """List the public subclasses of `base` among `members` whose names end with `suffix`."""
    return sorted(
        name
        for name, member in members.items()
        if inspect.isclass(member) and issubclass(member, base) and member is not base
        if not name.startswith("_") and name.endswith(suffix)
    )
