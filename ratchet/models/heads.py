"""Compare a model's outputs with targets in a loss, and convert them to probabilities.

| criterion | outputs | probabilities |
|---|---|---|
| `CrossEntropyLoss`, `MultiMarginLoss` | (N, C) scores | softmax |
| `NLLLoss` | (N, C) log-probabilities | exp |
| `BCELoss` | (N, 1) or (N, C) probabilities | the outputs; C columns: divided by their sum |
| `BCEWithLogitsLoss` | (N, 1) or (N, C) scores | sigmoid; C columns: divided by their sum |
| `MSELoss`, `L1Loss`, `SmoothL1Loss`, `HuberLoss` | (N, 1) or (N, C) near 0 and 1 | the nearest |

The prediction is the class with the highest probability. A single output stands for the second of
two classes, so its threshold is 0.5. A model may use any other loss of `torch.nn` if it defines
`probabilities(outputs)`, which returns (N, C).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

# These losses take class numbers as targets. The others compare outputs with 0 and 1.
BY_CLASS_NUMBER = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")


def loss(criterion: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean loss of a batch, in float32, or in float64 for float64 outputs.

    Args:
        criterion: what `recipe.criterion` returned.
        outputs: (N, classes) or (N, 1), of any float dtype.
        targets: (N,) int64 class numbers, or (N, classes) float shares of a mixed batch.

    Returns:
        The loss, ().
    """
    if outputs.dtype != torch.float64:
        outputs = outputs.float()
    values: Tensor = criterion(outputs, _shaped(type(criterion).__name__, outputs, targets))
    if not hasattr(criterion, "row_weights"):
        return values
    weights = _row_weights(criterion.row_weights, targets)  # type: ignore[arg-type]  # a buffer is a Tensor
    return (values.flatten(1).mean(1) * weights).sum() / weights.sum()


def mass(criterion: nn.Module, targets: Tensor) -> Tensor | int:
    """Return the divisor of the mean in `loss`.

    Args:
        criterion: what `recipe.criterion` returned.
        targets: as in `loss`.

    Returns:
        The sum of the rows' weights, (), or the number of rows if all weigh the same.
    """
    weights = getattr(criterion, "row_weights", None)
    divides_by_weights = type(criterion).__name__ in ("CrossEntropyLoss", "NLLLoss")
    if weights is None and divides_by_weights and targets.ndim == 1:
        weights = getattr(criterion, "weight", None)
    return len(targets) if weights is None else _row_weights(weights, targets).sum()


def _row_weights(weights: Tensor, targets: Tensor) -> Tensor:
    """Look up the weight of each row, (N,), in the weights of the classes, (classes,)."""
    return weights[targets] if targets.ndim == 1 else targets.to(weights.dtype) @ weights


def _shaped(criterion: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Convert the targets to what `criterion` compares with such outputs."""
    if outputs.shape[1:] == (1,):
        column = targets[:, 1:] if targets.ndim == 2 else targets[:, None]
        return column.to(outputs.dtype)
    if criterion in BY_CLASS_NUMBER or targets.ndim == 2:
        return targets
    return functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)


# ── predictions ───────────────────────────────────────────────────────────────────────────────────


def probabilities(model: nn.Module, criterion: str, outputs: Tensor) -> Tensor:
    """Convert outputs to probabilities.

    Args:
        model: the model; its own method `probabilities` takes precedence.
        criterion: the name of the loss that it was trained with.
        outputs: (N, classes) or (N, 1), of any float dtype.

    Returns:
        (N, classes) float32.
    """
    own: Callable[[Tensor], Tensor] | None = getattr(model, "probabilities", None)
    if own is not None:
        return own(outputs).float()
    return RULES.get(criterion, _of_scores)(outputs.float()).float()


def _of_scores(outputs: Tensor) -> Tensor:
    """Convert the outputs of an old version, whose criterion `check` no longer accepts."""
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
    # sigmoid / sum of sigmoids, without overflow for large scores
    return functional.logsigmoid(outputs).softmax(1)


def _nearest(outputs: Tensor) -> Tensor:
    """Project each row on the nearest probabilities (Duchi et al., 2008, ICML).

    These are 0 or more, add up to 1 and have the order of the outputs.
    """
    if outputs.shape[1] == 1:
        return _of_probabilities(outputs.clamp(0, 1))
    ordered = outputs.sort(1, descending=True).values
    ranks = torch.arange(1, outputs.shape[1] + 1, device=outputs.device)
    # (N, C): what each value loses if the first 1, 2, ... values stay above 0
    excess = (ordered.cumsum(1) - 1) / ranks
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
