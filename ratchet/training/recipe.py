"""Losses, optimizers and schedules by their PyTorch names, with keyword arguments that are checked before training starts."""

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
from ratchet.params import Named, Schedule, TrainParams

T = TypeVar("T")

# Arguments of a loss that Ratchet fixes: a step divides by the weights of its whole batch, and
# every row has a class.
FIXED = {"reduction": "mean", "ignore_index": -100, "size_average": None, "reduce": None}
BY_ROW = (
    "BCELoss",
    "BCEWithLogitsLoss",
)  # torch's own `weight` of these weighs columns, not classes


def criterion(named: Named, counts: Tensor) -> nn.Module:
    """The loss. `weight: balanced` weights each class by rows / (classes · its rows).

    Args:
        counts: (classes,) int64, training rows per class.

    Raises:
        TrainingError: there is no such loss, or it does not take these arguments.
    """
    arguments = dict(named.arguments)
    for key, only in FIXED.items():
        if arguments.get(key, only) != only:
            raise TrainingError(
                f"train.criterion.arguments: {key}: {arguments[key]} is not supported: a step takes"
                f" the mean over all rows of its batch; leave {key} out"
            )
    rows = arguments.pop("weight", None) if named.name in BY_ROW else None
    if rows not in (None, "balanced"):
        raise TrainingError(
            f"train.criterion.arguments: weight: {rows} would weigh the outputs of {named.name},"
            " not the classes; take weight: balanced, or pos_weight of BCEWithLogitsLoss"
        )
    if rows is not None:
        arguments["reduction"] = "none"  # outputs.loss takes the weighted mean
    arguments = {key: _tensor(key, value, counts) for key, value in arguments.items()}
    made = _make(
        "train.criterion", nn, nn.Module, Named(name=named.name, arguments=arguments), suffix="Loss"
    )
    if rows is not None:
        made.register_buffer("row_weights", _balanced(counts))
    return made


def optimizer(params: TrainParams, model: nn.Module, fused: bool) -> optim.Optimizer:
    """The optimizer over all weights of `model`, with `fused` where it has that."""
    named = params.optimizer
    kind = _class("train.optimizer", optim, optim.Optimizer, named.name)
    if named.name in ("LBFGS", "SparseAdam"):
        raise TrainingError(
            f"train.optimizer: {named.name} works in another way (closures or sparse gradients)"
        )
    arguments = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in named.arguments.items()
    }
    if fused and "fused" in inspect.signature(kind).parameters:
        arguments = {"fused": True, **arguments}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return _make(
        "train.optimizer",
        optim,
        optim.Optimizer,
        Named(name=named.name, arguments=arguments),
        weights,
        params.lr,
    )


def schedule(params: TrainParams, optimizer: optim.Optimizer, steps: int) -> LRScheduler | None:
    """The schedule.

    `max_lr`, `total_steps` and `T_max` are `train.lr` and the run's length where params do not say.

    Args:
        steps: steps (or epochs, for `every: epoch`) that training will take.
    """
    if params.schedule is None:
        return None
    named: Schedule = params.schedule
    kind = _class("train.schedule", lr_scheduler, LRScheduler, named.name)
    known = {"max_lr": params.lr, "total_steps": steps, "T_max": steps}
    known = {
        key: value for key, value in known.items() if key in inspect.signature(kind).parameters
    }
    if named.name == "ReduceLROnPlateau" and named.every != "epoch":
        raise TrainingError(
            "train.schedule.every: ReduceLROnPlateau goes by the validation loss; expected epoch"
        )
    filled = Named(name=named.name, arguments={**known, **named.arguments})
    return _make("train.schedule", lr_scheduler, LRScheduler, filled, optimizer)


def _balanced(counts: Tensor) -> Tensor:
    """(classes,) float32"""
    return counts.sum() / (len(counts) * counts.clamp(min=1).float())


def _tensor(key: str, value: Any, counts: Tensor) -> Any:
    if key == "weight" and value == "balanced":
        return _balanced(counts)
    if key not in ("weight", "pos_weight") or value is None:
        return value
    if not isinstance(value, list) or not all(
        isinstance(number, (int, float)) and number > 0 for number in value
    ):
        expected = "balanced, or a list" if key == "weight" else "a list"
        raise TrainingError(
            f"train.criterion.arguments: {key}: {value} is not supported; expected {expected} of"
            " numbers above 0"
        )
    if key == "weight" and len(value) != len(counts):
        raise TrainingError(
            f"train.criterion.arguments: weight has {len(value)} numbers, the data have"
            f" {len(counts)} classes; write one per class, in the order of spec.json"
        )
    return torch.tensor(value, dtype=torch.float32)


def _make(
    where: str, module: ModuleType, base: type[T], named: Named, *given: Any, suffix: str = ""
) -> T:
    kind = _class(where, module, base, named.name, suffix)
    signature = inspect.signature(kind)
    unknown = [key for key in named.arguments if key not in signature.parameters]
    if unknown:
        taken = list(signature.parameters)[len(given) :]
        near = difflib.get_close_matches(unknown[0], taken, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it takes: {', '.join(taken)}"
        raise TrainingError(
            f"{where}.arguments: {named.name} takes no {', '.join(unknown)}; {hint}"
        )
    try:
        return kind(*given, **named.arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise TrainingError(
            f"{where}: {named.name} cannot be made with {dict(named.arguments)}: {error}"
        ) from error


def _class(
    where: str, module: ModuleType, base: type[T], name: str, suffix: str = ""
) -> Callable[..., T]:
    """The class `name` of `module`; raises `TrainingError` with the nearest names."""
    found = getattr(module, name, None)
    if (
        inspect.isclass(found)
        and issubclass(found, base)
        and found is not base
        and name.endswith(suffix)
    ):
        return found
    known = _names(vars(module), base, suffix)
    near = difflib.get_close_matches(name, known, n=3)
    near = near or [each for each in known if name.lower() in each.lower()][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    raise TrainingError(f"{where}.name: {module.__name__} has no {name!r}; {hint}")


def _names(members: Mapping[str, Any], base: type, suffix: str) -> list[str]:
    return sorted(
        name
        for name, member in members.items()
        if inspect.isclass(member) and issubclass(member, base) and member is not base
        if not name.startswith("_") and name.endswith(suffix)
    )
