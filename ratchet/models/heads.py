"""How a model's outputs meet targets in a loss, and how they become probabilities.

| criterion | outputs | probabilities |
|---|---|---|
| `CrossEntropyLoss`, `MultiMarginLoss` | (N, C) scores | softmax |
| `NLLLoss` | (N, C) log-probabilities | exp |
| `BCELoss` | (N, 1) or (N, C) probabilities | the outputs; of C columns, divided by their sum |
| `BCEWithLogitsLoss` | (N, 1) or (N, C) scores | sigmoid; of C columns, divided by their sum |
| `MSELoss`, `L1Loss`, `SmoothL1Loss`, `HuberLoss` | (N, 1) or (N, C) near 0 and 1 | the nearest probabilities |

The prediction is the class with the highest probability. One output is about the second of two
classes, so its threshold is 0.5. A model that defines `probabilities(outputs)`, which returns (N,
C), may use any other loss of `torch.nn` too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ratchet.errors import TrainingError

BY_CLASS_NUMBER = (
    "CrossEntropyLoss",
    "NLLLoss",
    "MultiMarginLoss",
)  # the others compare outputs with 0 and 1
TOLERANCE = 1e-3  # of the sum of a row's probabilities
LINEAR = ("AddmmBackward0", "MmBackward0", "ConvolutionBackward0")
SQUASHED = {
    "SigmoidBackward0": "a sigmoid",
    "HardsigmoidBackward0": "a sigmoid",
    "SoftmaxBackward0": "a softmax",
}
VIEWS = (  # autograd's names of operations that keep the values they return
    *(
        "Squeeze",
        "Unsqueeze",
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Alias",
        "T",
        "Transpose",
        "Permute",
    ),
    *("Slice", "Select", "Index", "Clone", "ToCopy"),
)
BOUNDS = ("Clamp", "ClampMin", "ClampMax")


def loss(criterion: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of a batch, ().

    Args:
        outputs: (N, classes) or (N, 1), of any float type; computed in float32, or float64 if they
        are that.
        targets: (N,) int64 class numbers, or (N, classes) float shares of a mixed batch.
    """
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    values: Tensor = criterion(outputs, _shaped(type(criterion).__name__, outputs, targets))
    if not hasattr(criterion, "row_weights"):
        return values
    weights = _row_weights(criterion.row_weights, targets)  # type: ignore[arg-type]  # a buffer is a Tensor
    return (values.flatten(1).mean(1) * weights).sum() / weights.sum()


def mass(criterion: nn.Module, targets: Tensor) -> Tensor | int:
    """What the mean of `loss` divides by: the sum of the rows' weights, (), or their number if they weigh the same."""
    weights = getattr(criterion, "row_weights", None)
    if (
        weights is None
        and type(criterion).__name__ in ("CrossEntropyLoss", "NLLLoss")
        and targets.ndim == 1
    ):
        weights = getattr(criterion, "weight", None)
    return len(targets) if weights is None else _row_weights(weights, targets).sum()


def _row_weights(weights: Tensor, targets: Tensor) -> Tensor:
    """(N,), out of (classes,)"""
    return weights[targets] if targets.ndim == 1 else targets.to(weights.dtype) @ weights


def _shaped(criterion: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The targets as `criterion` compares them with such outputs."""
    if outputs.shape[1:] == (1,):
        return (targets[:, 1:] if targets.ndim == 2 else targets[:, None]).to(outputs.dtype)
    if criterion in BY_CLASS_NUMBER or targets.ndim == 2:
        return targets
    return functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)


# ── predictions ───────────────────────────────────────────────────────────────────────────────────


def probabilities(model: nn.Module, criterion: str, outputs: Tensor) -> Tensor:
    """(N, classes) float32 probabilities out of the outputs of a `model` that was trained with `criterion`."""
    own: Callable[[Tensor], Tensor] | None = getattr(model, "probabilities", None)
    found = own(outputs) if own is not None else RULES.get(criterion, _of_scores)(outputs.float())
    return found.float()


def _of_scores(outputs: Tensor) -> Tensor:
    """For versions trained with a criterion that is refused today."""
    return _of_logits(outputs) if outputs.shape[1] == 1 else _softmax(outputs)


def _softmax(outputs: Tensor) -> Tensor:
    return outputs.softmax(1)


def _of_logs(outputs: Tensor) -> Tensor:
    return outputs.exp()


def _of_probabilities(outputs: Tensor) -> Tensor:
    if outputs.shape[1] == 1:
        return torch.cat([1 - outputs, outputs], 1)
    return outputs / outputs.sum(1, keepdim=True).clamp(min=torch.finfo(outputs.dtype).tiny)


def _of_logits(outputs: Tensor) -> Tensor:
    if outputs.shape[1] == 1:
        return _of_probabilities(outputs.sigmoid())
    return functional.logsigmoid(outputs).softmax(
        1
    )  # sigmoid / sum of sigmoids, for any size of the scores


def _nearest(outputs: Tensor) -> Tensor:
    """The nearest point whose values are 0 or more and add up to 1 (Duchi et al., 2008, ICML).

    Keeps the order.
    """
    if outputs.shape[1] == 1:
        return _of_probabilities(outputs.clamp(0, 1))
    ordered = outputs.sort(1, descending=True).values
    ranks = torch.arange(1, outputs.shape[1] + 1, device=outputs.device)
    excess = (
        ordered.cumsum(1) - 1
    ) / ranks  # (N, C): what each value loses if so many stay above 0
    last = (ordered > excess).sum(1, keepdim=True) - 1
    return (outputs - excess.gather(1, last.clamp(min=0))).clamp(min=0)


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "CrossEntropyLoss": _softmax,
    "MultiMarginLoss": _softmax,
    "NLLLoss": _of_logs,
    "BCELoss": _of_probabilities,
    "BCEWithLogitsLoss": _of_logits,
    "MSELoss": _nearest,
    "L1Loss": _nearest,
    "SmoothL1Loss": _nearest,
    "HuberLoss": _nearest,
}


# ── before training ───────────────────────────────────────────────────────────────────────────────


def check(
    model: nn.Module, criterion: nn.Module, inputs: Tensor, classes: int, mixed: bool = False
) -> None:
    """Try two rows on the CPU before training starts; `mixed`: targets will be shares of classes.

    Raises:
        TrainingError: the criterion does not define predictions, the model does not take the rows,
            its outputs do not fit the classes, or the loss does not fit the outputs.
    """
    name, own = type(criterion).__name__, hasattr(model, "probabilities")
    if name not in RULES and not own:
        raise TrainingError(
            f"train.criterion: {name} does not define how outputs become predictions; expected one"
            f" of {', '.join(RULES)}, or a model in custom/ that has a method"
            " `probabilities(outputs)`"
        )
    if mixed and name in ("NLLLoss", "MultiMarginLoss"):
        raise TrainingError(
            f"train.criterion: {name} does not take mixed targets (train.augment); take"
            " CrossEntropyLoss, or set mixup and cutmix to 0"
        )
    model.eval()
    try:
        outputs = model(inputs)
    except Exception as error:  # whatever the code in custom/ raises
        reason = f"{type(error).__name__}: {error}"
        raise TrainingError(
            f"model: it does not take rows of shape {tuple(inputs.shape[1:])}: {reason}"
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
            f"model: its outputs ({outputs.dtype}) have no gradient, so it cannot learn; do not"
            " detach, round or compare them, and leave a weight that is trained"
        )
    _check_loss(criterion, outputs.detach(), classes, mixed)


def _check_own(model: nn.Module, outputs: object, classes: int) -> None:
    with torch.no_grad():
        found = model.probabilities(outputs)  # type: ignore[operator]  # a method of the user's class
    shape = tuple(getattr(found, "shape", ()))
    if (
        not isinstance(outputs, Tensor)
        or len(shape) != 2
        or shape != (len(outputs), classes)
        or not _sum_to_one(found)
    ):
        raise TrainingError(
            f"model: its `probabilities` must return ({classes} columns) numbers from 0 to 1 that"
            f" add up to 1 in each row; for two rows it returned {type(found).__name__} of shape"
            f" {shape}"
        )


def _sum_to_one(values: Tensor) -> bool:
    return bool((values >= 0).all() and (values.sum(1) - 1).abs().max() <= TOLERANCE)


def _check_shape(outputs: object, rows: int, classes: int) -> None:
    widths = {classes, 1} if classes == 2 else {classes}
    if isinstance(outputs, Tensor) and outputs.shape in [(rows, width) for width in widths]:
        return
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
    raise TrainingError(
        f"model: its output for {rows} rows is {found}; {classes} classes need ({rows}, {classes})"
        + (f" or ({rows}, 1)" if classes == 2 else "")
    )


def _check_fit(criterion: str, outputs: Tensor, classes: int) -> None:
    """Raise `TrainingError` if the criterion reads scores as probabilities, or the other way round."""
    squash = SQUASHED.get(_last_operation(outputs, VIEWS + BOUNDS))
    width = outputs.shape[1]
    if width == 1 and criterion in BY_CLASS_NUMBER:
        fitting = "BCELoss" if squash else "BCEWithLogitsLoss"
        raise TrainingError(
            f"train.criterion: {criterion} needs {classes} outputs, the model gives 1; take"
            f" {fitting}"
        )
    if squash and criterion in ("CrossEntropyLoss", "MultiMarginLoss", "BCEWithLogitsLoss"):
        fitting = "take BCELoss" if width == 1 else "take BCELoss or MSELoss"
        raise TrainingError(
            f"train.criterion: {criterion} needs scores, but the model ends with {squash};"
            f" {fitting}, or leave that last layer out"
        )
    values = outputs.detach().float()
    if criterion == "NLLLoss" and not _sum_to_one(values.exp()):
        raise TrainingError(
            "train.criterion: NLLLoss needs log-probabilities, but the model's outputs are not;"
            " take CrossEntropyLoss, or end the model with nn.LogSoftmax(1)"
        )
    is_linear = _last_operation(outputs, VIEWS) in LINEAR
    if criterion == "BCELoss" and (is_linear or not bool(((values >= 0) & (values <= 1)).all())):
        raise TrainingError(
            "train.criterion: BCELoss does not take this model's outputs: they are not"
            " probabilities; take BCEWithLogitsLoss, or end the model with nn.Sigmoid()"
        )


def _last_operation(outputs: Tensor, passed_over: Sequence[str]) -> str:
    """Autograd's name for the operation that computed the outputs, less those passed over.

    "" if it cannot say.
    """
    node = outputs.grad_fn
    while node is not None and node.name().partition("Backward")[0] in passed_over:
        node = node.next_functions[0][0]
    return "" if node is None else node.name()


def _check_loss(criterion: nn.Module, outputs: Tensor, classes: int, mixed: bool) -> None:
    name = type(criterion).__name__
    targets = torch.arange(len(outputs)) % classes
    try:
        value = loss(
            criterion, outputs, functional.one_hot(targets, classes).float() if mixed else targets
        )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise TrainingError(
            f"train.criterion: {name} does not take this model's outputs: {error}"
        ) from error
    if value.ndim:
        raise TrainingError(
            f"train.criterion: {name} gives a loss of shape {tuple(value.shape)}; expected one"
            " number: reduction: mean"
        )
