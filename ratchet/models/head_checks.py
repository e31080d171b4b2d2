"""Check that a model, its loss and the data fit together before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratchet.errors import TrainingError
from ratchet.models import heads

TOLERANCE = 1e-3  # of the sum of a row's probabilities
LINEAR = ("AddmmBackward0", "MmBackward0", "ConvolutionBackward0")
SQUASHED = {
    "SigmoidBackward0": "a sigmoid",
    "HardsigmoidBackward0": "a sigmoid",
    "SoftmaxBackward0": "a softmax",
}
# Autograd's names of the operations that return values of their input unchanged.
VIEWS = (
    "Squeeze",
    "Unsqueeze",
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Alias",
    "T",
    "Transpose",
    "Permute",
    "Slice",
    "Select",
    "Index",
    "Clone",
    "ToCopy",
)
BOUNDS = ("Clamp", "ClampMin", "ClampMax")


def check(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, classes: int, mixed: bool = False
) -> None:
    """Try two rows on the CPU before training starts.

    Args:
        model: the model, on the CPU.
        criterion: what `recipe.criterion` returned.
        inputs: (2, C, H, W) or (2, F) float32.
        classes: number of classes.
        mixed: whether targets will be shares of classes (mixup, cutmix).

    Raises:
        TrainingError: the criterion does not define predictions, the model does not take the rows,
            its outputs do not fit the classes, or the loss does not fit the outputs.
    """
    name, own = type(criterion).__name__, hasattr(model, "probabilities")
    if name not in heads.RULES and not own:
        raise TrainingError(
            f"train.criterion: {name} does not define how outputs become predictions; "
            f"expected one of {', '.join(heads.RULES)}, or a model in custom/ with a method "
            "`probabilities(outputs)`"
        )
    if mixed and name in ("NLLLoss", "MultiMarginLoss"):
        raise TrainingError(
            f"train.criterion: {name} does not take mixed targets (train.augment); "
            "use CrossEntropyLoss, or set mixup and cutmix to 0"
        )
    model.eval()
    try:
        outputs = model(inputs)
    except Exception as error:  # code in custom/ may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise TrainingError(
            f"model: the model does not take rows of shape {tuple(inputs.shape[1:])}: {reason}"
        ) from error
    finally:
        model.train()
    if own:
        _check_own(model, outputs, classes)
    else:
        _check_shape(outputs, len(inputs), classes)
        _check_fit(name, outputs, classes)
    if not outputs.is_floating_point() or not outputs.requires_grad:
        raise TrainingError(
            f"model: the model's outputs ({outputs.dtype}) have no gradient, so it cannot learn; "
            "do not detach, round or compare them, and leave at least one weight trainable"
        )
    _check_loss(criterion, outputs.detach(), classes, mixed)


def _check_own(model: Any, outputs: object, classes: int) -> None:
    """Raise `TrainingError` if the model's method `probabilities` does not return probabilities."""
    with torch.no_grad():
        values = model.probabilities(outputs)
    shape = tuple(getattr(values, "shape", ()))
    if (
        not isinstance(outputs, Tensor)
        or len(shape) != 2
        or shape != (len(outputs), classes)
        or not _sum_to_one(values)
    ):
        raise TrainingError(
            f"model: `probabilities` returned a {type(values).__name__} of shape {shape} for two "
            f"rows; expected {classes} columns of numbers from 0 to 1 that add up to 1 in each row"
        )


def _sum_to_one(values: Tensor) -> bool:
    """Return whether every row is 0 or more and adds up to 1."""
    return bool((values >= 0).all() and (values.sum(1) - 1).abs().max() <= TOLERANCE)


def _check_shape(outputs: object, rows: int, classes: int) -> None:
    widths = {classes, 1} if classes == 2 else {classes}
    if isinstance(outputs, Tensor) and outputs.shape in [(rows, width) for width in widths]:
        return
    actual = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
    expected = f"({rows}, {classes})"
    if classes == 2:
        expected += f" or ({rows}, 1)"
    raise TrainingError(
        f"model: its output for {rows} rows is {actual}; {classes} classes need {expected}"
    )


def _check_fit(criterion: str, outputs: Tensor, classes: int) -> None:
    """Raise `TrainingError` if the criterion takes scores for probabilities or vice versa."""
    squash = SQUASHED.get(_last_operation(outputs, VIEWS + BOUNDS))
    width = outputs.shape[1]
    if width == 1 and criterion in heads.BY_CLASS_NUMBER:
        fitting = "BCELoss" if squash else "BCEWithLogitsLoss"
        raise TrainingError(
            f"train.criterion: {criterion} needs {classes} outputs, but the model has 1; "
            f"use {fitting}"
        )
    if squash and criterion in ("CrossEntropyLoss", "MultiMarginLoss", "BCEWithLogitsLoss"):
        fitting = "BCELoss" if width == 1 else "BCELoss or MSELoss"
        raise TrainingError(
            f"train.criterion: {criterion} needs scores, but the model ends with {squash}; "
            f"use {fitting}, or remove that last layer"
        )
    values = outputs.detach().float()
    if criterion == "NLLLoss" and not _sum_to_one(values.exp()):
        raise TrainingError(
            "train.criterion: NLLLoss needs log-probabilities, but the model returns something "
            "else; use CrossEntropyLoss, or end the model with nn.LogSoftmax(1)"
        )
    is_linear = _last_operation(outputs, VIEWS) in LINEAR
    if criterion == "BCELoss" and (is_linear or not bool(((values >= 0) & (values <= 1)).all())):
        raise TrainingError(
            "train.criterion: BCELoss needs probabilities, but the model returns something else; "
            "use BCEWithLogitsLoss, or end the model with nn.Sigmoid()"
        )


def _last_operation(outputs: Tensor, skipped: Sequence[str]) -> str:
    """Return autograd's name of the last operation before the outputs that is not `skipped`.

    "" if autograd does not know it.
    """
    node = outputs.grad_fn
    while node is not None and node.name().partition("Backward")[0] in skipped:
        node = node.next_functions[0][0]
    return "" if node is None else node.name()


def _check_loss(criterion: nn.Module, outputs: Tensor, classes: int, mixed: bool) -> None:
    name = type(criterion).__name__
    targets = torch.arange(len(outputs)) % classes
    if mixed:
        targets = functional.one_hot(targets, classes).float()
    try:
        value = heads.loss(criterion, outputs, targets)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise TrainingError(
            f"train.criterion: {name} does not take this model's outputs: {error}"
        ) from error
    if value.ndim:
        raise TrainingError(
            f"train.criterion: {name} returns a loss of shape {tuple(value.shape)}; "
            "expected one number, as with reduction: mean"
        )
