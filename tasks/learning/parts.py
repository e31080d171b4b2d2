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

from tasks.errors import TrainingError
from tasks.params import Named, Schedule, TrainParams

T = TypeVar("T")

# Losses that compare class numbers; every other one gets 0 and 1 in the shape of the model's outputs.
BY_CLASS_NUMBER = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")


def criterion(named: Named, counts: Tensor) -> nn.Module:
    """The loss. `weight: balanced` weights each class by rows / (classes · its rows).

    Args:
        counts: (classes,) int64, training rows per class.
    """
    arguments = {key: _tensor(key, value, counts) for key, value in named.arguments.items()}
    return _make("train.criterion", nn, nn.Module, Named(name=named.name, arguments=arguments), suffix="Loss")


def optimizer(params: TrainParams, model: nn.Module, fused: bool) -> optim.Optimizer:
    """The optimizer over all weights of `model`, with `fused` where it has that."""
    named = params.optimizer
    kind = _class("train.optimizer", optim, optim.Optimizer, named.name)
    if named.name in ("LBFGS", "SparseAdam"):
        raise TrainingError(f"train.optimizer: {named.name} works in another way (closures or sparse gradients)")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in named.arguments.items()}
    if fused and "fused" in inspect.signature(kind).parameters:
        arguments = {"fused": True, **arguments}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return _make(
        "train.optimizer", optim, optim.Optimizer, Named(name=named.name, arguments=arguments), weights, params.lr
    )


def schedule(params: TrainParams, optimizer: optim.Optimizer, steps: int) -> LRScheduler | None:
    """The schedule; `max_lr`, `total_steps` and `T_max` are `train.lr` and the run's length where params do not say.

    Args:
        steps: steps (or epochs, for `every: epoch`) that training will take.
    """
    if params.schedule is None:
        return None
    named: Schedule = params.schedule
    kind = _class("train.schedule", lr_scheduler, LRScheduler, named.name)
    known = {"max_lr": params.lr, "total_steps": steps, "T_max": steps}
    known = {key: value for key, value in known.items() if key in inspect.signature(kind).parameters}
    if named.name == "ReduceLROnPlateau" and named.every != "epoch":
        raise TrainingError("train.schedule.every: ReduceLROnPlateau goes by the validation loss; expected epoch")
    filled = Named(name=named.name, arguments={**known, **named.arguments})
    return _make("train.schedule", lr_scheduler, LRScheduler, filled, optimizer)


def _tensor(key: str, value: Any, counts: Tensor) -> Any:
    if key == "weight" and value == "balanced":
        return counts.sum() / (len(counts) * counts.clamp(min=1).float())
    if key in ("weight", "pos_weight") and isinstance(value, list):
        return torch.tensor(value, dtype=torch.float32)
    return value


def _make(where: str, module: ModuleType, base: type[T], named: Named, *given: Any, suffix: str = "") -> T:
    kind = _class(where, module, base, named.name, suffix)
    signature = inspect.signature(kind)
    unknown = [key for key in named.arguments if key not in signature.parameters]
    if unknown:
        taken = list(signature.parameters)[len(given) :]
        near = difflib.get_close_matches(unknown[0], taken, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it takes: {', '.join(taken)}"
        raise TrainingError(f"{where}.arguments: {named.name} takes no {', '.join(unknown)}; {hint}")
    try:
        return kind(*given, **named.arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise TrainingError(f"{where}: {named.name} cannot be made with {dict(named.arguments)}: {error}") from error


def _class(where: str, module: ModuleType, base: type[T], name: str, suffix: str = "") -> Callable[..., T]:
    """The class `name` of `module`; raises `TrainingError` with the nearest names."""
    found = getattr(module, name, None)
    if inspect.isclass(found) and issubclass(found, base) and found is not base and name.endswith(suffix):
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
