"""Losses, optimizers and schedules by name: what torch has works, what it has not is explained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from ratchet.errors import TrainingError
from ratchet.models import head_checks, heads
from ratchet.training import recipe
from tests.helpers.learning_samples import chosen

OPTIMIZERS = [
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]
SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("OneCycleLR", {}),
    ("CosineAnnealingLR", {}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3}),
    ("StepLR", {"step_size": 2}),
    ("MultiStepLR", {"milestones": [2, 4]}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("LinearLR", {}),
    ("ConstantLR", {}),
    ("PolynomialLR", {"total_iters": 5}),
    ("CyclicLR", {"base_lr": 0.001, "cycle_momentum": False}),
    ("ReduceLROnPlateau", {"patience": 0}),
]
COUNTS = torch.tensor([30, 10])


def named(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("fused", [True, False])
def test_optimizers_by_name(name: str, fused: bool) -> None:
    model = nn.Linear(3, 2)
    optimizer = recipe.optimizer(chosen(train__optimizer=named(name)).train, model, fused)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert type(optimizer).__name__ == name


@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_schedules_by_name_keep_their_state(name: str, arguments: dict[str, Any]) -> None:
    def make() -> Any:
        params = chosen(
            train__optimizer=named("SGD"),
            train__schedule={**named(name, **arguments), "every": "epoch"},
        ).train
        optimizer = recipe.optimizer(params, nn.Linear(1, 1), fused=False)
        return optimizer, recipe.schedule(params, optimizer, 6)

    def move(schedule: Any) -> None:
        schedule.optimizer.step()
        schedule.step(*[1.0] * isinstance(schedule, lr_scheduler.ReduceLROnPlateau))

    (optimizer, schedule), (other, resumed) = make(), make()
    for _ in range(3):
        move(schedule)
    resumed.load_state_dict(schedule.state_dict())
    other.load_state_dict(optimizer.state_dict())
    move(schedule)
    move(resumed)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    "name",
    [
        "CrossEntropyLoss",
        "NLLLoss",
        "MultiMarginLoss",
        "BCEWithLogitsLoss",
        "MSELoss",
        "L1Loss",
        "HuberLoss",
        "SmoothL1Loss",
    ],
)
def test_losses_by_name(name: str) -> None:
    criterion = recipe.criterion(chosen(train__criterion=named(name)).train.criterion, COUNTS)
    assert heads.loss(criterion, torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])).shape == ()


def test_class_weights_balance_and_stand() -> None:
    balanced = recipe.criterion(
        chosen(train__criterion=named("CrossEntropyLoss", weight="balanced")).train.criterion,
        COUNTS,
    )
    assert balanced.weight.tolist() == pytest.approx([40 / 60, 2.0])
    given = recipe.criterion(
        chosen(train__criterion=named("CrossEntropyLoss", weight=[1, 5])).train.criterion, COUNTS
    )
    assert given.weight.tolist() == [1, 5]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (
            "optimizer",
            named("AdamV"),
            r"train\.optimizer\.name: torch\.optim has no 'AdamV'; did you mean Adam",
        ),
        ("optimizer", named("sgd"), r"has no 'sgd'; did you mean .*SGD"),
        ("optimizer", named("Optimizer"), r"has no 'Optimizer'"),
        (
            "optimizer",
            named("AdamW", momentum=0.9),
            r"train\.optimizer\.arguments: AdamW takes no momentum; it takes: betas",
        ),
        ("optimizer", named("SGD", momentun=0.9), r"SGD takes no momentun; did you mean momentum"),
        (
            "optimizer",
            named("SGD", momentum=-1),
            r"SGD cannot be built with .*Invalid momentum value",
        ),
        ("optimizer", named("LBFGS"), r"LBFGS is not supported"),
        (
            "schedule",
            {**named("OneCycle"), "every": "step"},
            r"train\.schedule\.name: .* has no 'OneCycle'; did you mean OneCycleLR",
        ),
        (
            "schedule",
            {**named("StepLR"), "every": "step"},
            r"StepLR cannot be built with .*step_size",
        ),
        ("schedule", {**named("SequentialLR"), "every": "step"}, r"SequentialLR cannot be built"),
        (
            "criterion",
            named("CrossEntropy"),
            r"torch\.nn has no 'CrossEntropy'; did you mean CrossEntropyLoss",
        ),
        ("criterion", named("Linear"), r"torch\.nn has no 'Linear'"),
        (
            "criterion",
            named("CrossEntropyLoss", smoothing=0.1),
            r"takes no smoothing; did you mean label_smoothing",
        ),
    ],
)
def test_what_torch_has_not_is_explained(part: str, value: dict[str, Any], message: str) -> None:
    params = chosen(**{f"train__{part}": value}).train
    with pytest.raises(TrainingError, match=message):
        recipe.criterion(params.criterion, COUNTS)
        recipe.schedule(params, recipe.optimizer(params, nn.Linear(1, 1), fused=True), 5)


def classify(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width))


@pytest.mark.parametrize(
    ("model", "criterion", "classes", "message"),
    [
        (
            classify(5),
            nn.CrossEntropyLoss(),
            3,
            r"its output for 2 rows is \(2, 5\); 3 classes need \(2, 3\)",
        ),
        (classify(1), nn.BCEWithLogitsLoss(), 3, r"is \(2, 1\); 3 classes"),
        (
            classify(1),
            nn.CrossEntropyLoss(),
            2,
            r"needs 2 outputs, but the model has 1; use BCEWithLogitsLoss",
        ),
        (nn.Linear(7, 2), nn.CrossEntropyLoss(), 2, r"does not take rows of shape \(4,\)"),
        (nn.LSTM(4, 2), nn.CrossEntropyLoss(), 2, r"its output for 2 rows is a tuple"),
        (
            classify(2),
            nn.CrossEntropyLoss(reduction="none"),
            2,
            r"returns a loss of shape \(2,\).*reduction: mean",
        ),
        (
            classify(2),
            nn.TripletMarginLoss(),
            2,
            r"TripletMarginLoss does not define how outputs become predictions",
        ),
        (
            classify(2),
            nn.CrossEntropyLoss(weight=torch.ones(3)),
            2,
            r"CrossEntropyLoss does not take this model's outputs",
        ),
        (classify(2), nn.BCELoss(), 2, r"BCELoss needs probabilities"),
    ],
)
def test_what_does_not_fit_is_found_before_training(
    model: nn.Module, criterion: nn.Module, classes: int, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        head_checks.check(model, criterion, torch.full((2, 4), -3.0), classes)
