"""How a model's outputs meet targets in a loss, and how they become probabilities.

A model gives (N, classes) scores, or for two classes (N, 1): a score, or under `BCELoss` a probability of the second.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.errors import TrainingError
from tasks.learning.parts import BY_CLASS_NUMBER


def loss(criterion: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a batch.

    Args:
        outputs: (N, classes) or (N, 1), of any float type; computed in float32.
        targets: (N,) int64 class numbers, or (N, classes) float shares of a mixed batch.

    Returns:
        (): the mean.
    """
    value: Tensor = criterion(outputs.float(), _shaped(type(criterion).__name__, outputs, targets))
    return value


def _shaped(criterion: str, outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape[1] == 1:
        return (targets[:, 1:] if targets.ndim == 2 else targets[:, None]).float()
    if criterion in BY_CLASS_NUMBER or targets.ndim == 2:
        return targets
    return functional.one_hot(targets, outputs.shape[1]).float()


def probabilities(criterion: str, outputs: Tensor) -> Tensor:
    """(N, classes) float32 probabilities out of what a model trained with `criterion` gives."""
    outputs = outputs.float()
    if outputs.shape[1] > 1:
        return outputs.softmax(1)
    second = outputs if criterion == "BCELoss" else outputs.sigmoid()
    return torch.cat([1 - second, second], 1)


def check(model: nn.Module, criterion: nn.Module, inputs: Tensor, classes: int, mixed: bool = False) -> None:
    """Try two rows before training starts, on the CPU; `mixed`: targets will be shares of classes.

    Raises:
        TrainingError: the model does not take the rows, its outputs do not fit the classes, or the loss does not fit them.
    """
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(inputs)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrainingError(f"model: it does not take rows of shape {tuple(inputs.shape[1:])}: {error}") from error
    finally:
        model.train()
    fits = isinstance(outputs, Tensor) and outputs.shape in [
        (len(inputs), n) for n in ({classes, 1} if classes == 2 else {classes})
    ]
    if not fits:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TrainingError(
            f"model: its output for {len(inputs)} rows is {found}; {classes} classes need ({len(inputs)}, {classes})"
        )
    _check_loss(criterion, outputs, classes, mixed)


def _check_loss(criterion: nn.Module, outputs: Tensor, classes: int, mixed: bool) -> None:
    name = type(criterion).__name__
    if outputs.shape[1] == 1 and name in BY_CLASS_NUMBER:
        raise TrainingError(
            f"train.criterion: {name} needs {classes} outputs, the model gives 1; take BCELoss or BCEWithLogitsLoss"
        )
    targets = torch.arange(len(outputs)) % classes
    try:
        value = loss(criterion, outputs, functional.one_hot(targets, classes).float() if mixed else targets)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        found = "mixed targets (train.augment)" if mixed else "this model's outputs"
        raise TrainingError(f"train.criterion: {name} does not take {found}: {error}") from error
    if value.ndim:
        raise TrainingError(
            f"train.criterion: {name} gives a loss of shape {tuple(value.shape)}; expected one number: reduction: mean"
        )
