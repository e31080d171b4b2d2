"""The loop: golden losses, and each of its options doing what it says. A number names the fault."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from ratchet.dataset.prepared import PreparedDataset
from ratchet.dataset.spec import Spec
from ratchet.errors import DataError, TrainingError
from ratchet.models import architectures
from ratchet.training import state
from ratchet.training.average import Average
from ratchet.training.checkpoint import Checkpoints
from ratchet.training.loop import Trained, fit
from tests.helpers.learning_samples import chosen

pytest_plugins = ["tests.helpers.learning_fixtures"]

GOLDEN = Path(__file__).parent / "golden_losses.json"
SGD = {"name": "SGD", "arguments": {}}
PLAIN = {"name": "CrossEntropyLoss", "arguments": {}}
EXACT = {
    "train__precision": "float32",
    "train__augment__flip": False,
    "train__optimizer": SGD,
    "train__schedule": None,
}


def run(
    pictured: Path,
    tmp_path: Path,
    say: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    **values: Any,
) -> Trained:
    prepared = pictured / "data/prepared"
    splits = [PreparedDataset(prepared / split) for split in ("train", "val")]
    params = chosen(**{"run__checkpoint_seconds": 1e9, **values})
    return fit(
        params,
        Spec.read(prepared / "spec.json"),
        *splits,
        Checkpoints(tmp_path / "checkpoints"),
        stop=stop,
        say=say,
    )


def test_twenty_steps_match_the_recorded_losses(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 on one thread; to 4 digits, since another processor adds up in another order."""
    losses: list[float] = []
    learn = state.State.learn

    def recorded(self: state.State, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = learn(self, inputs, targets)
        losses.append(loss.item() / len(inputs))
        return loss

    monkeypatch.setattr(state.State, "learn", recorded)
    run(pictures, tmp_path, train__precision="float32", train__lr=0.001)
    golden = json.loads(GOLDEN.read_text())
    assert losses == pytest.approx(golden, rel=2e-3), (
        f"if this was meant, write to {GOLDEN.name}: {losses}"
    )


def test_accumulating_changes_nothing_but_memory(pictures: Path, tmp_path: Path) -> None:
    plain = {**EXACT, "model__name": "mlp", "model__arguments": {"dropout": 0.0}, "train__lr": 0.1}
    once = run(pictures, tmp_path, **plain)
    parts = run(pictures, tmp_path, **plain, train__accumulate=4)
    for one, other in zip(once.weights.values(), parts.weights.values(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_clipping_bounds_a_step(pictures: Path, tmp_path: Path) -> None:
    values = {**EXACT, "train__epochs": 1, "train__lr": 1.0, "train__clip": 1e-4}
    start = run(pictures, tmp_path, **{**values, "train__lr": 1e-12})
    end = run(pictures, tmp_path, **values)
    norms = [
        (end.weights[key] - start.weights[key]).norm()
        for key in start.weights
        if key.endswith(("weight", "bias"))
    ]
    assert 0 < torch.stack(norms).norm() <= 10 * 1e-4 * 1.01


def test_the_average_follows_its_formula_and_is_what_is_scored_and_kept(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the average of the weights after each step, whose decay grows as (1 + steps) / (10 + steps)."""
    average: dict[str, torch.Tensor] = {}
    learn, steps = state.State.learn, itertools.count()

    def followed(self: state.State, *batch: torch.Tensor) -> torch.Tensor:
        loss, done = learn(self, *batch), next(steps)
        decay = min(0.9, (1 + done) / (10 + done)) if done else 0.0
        for key, value in self.model.state_dict().items():
            floats = value.is_floating_point() and done
            average[key] = decay * average[key] + (1 - decay) * value if floats else value.clone()
        return loss

    monkeypatch.setattr(state.State, "learn", followed)
    found = run(pictures, tmp_path, **EXACT, train__ema=0.9, train__criterion=PLAIN)
    assert found.weights.keys() == average.keys()
    for key, value in found.weights.items():
        assert torch.allclose(value, average[key], atol=1e-6), key
    assert scores(pictures, found.weights) == pytest.approx(
        [found.curves[-1]["val_loss"], found.curves[-1]["val_accuracy"]], abs=1e-4
    )


def scores(pictured: Path, weights: dict[str, torch.Tensor]) -> list[float]:
    """Cross entropy and accuracy of a `cnn` on the validation rows."""
    spec = Spec.read(pictured / "data/prepared/spec.json")
    model = architectures.build("cnn", {}, spec.input_shape, len(spec.classes))
    model.load_state_dict(weights)
    inputs, targets = PreparedDataset(pictured / "data/prepared/val")[range(50)]
    with torch.no_grad():
        outputs = model.eval()((inputs / 255 - spec.mean[0]) / spec.std[0])
    loss = torch.nn.functional.cross_entropy(outputs, targets)
    return [loss.item(), (outputs.argmax(1) == targets).float().mean().item()]


BUMPY = {
    **EXACT,
    "model__name": "mlp",
    "train__lr": 3.0,
    "train__clip": 5.0,
    "train__epochs": 12,
    "train__batch_size": 67,
}


def test_patience_stops_and_brings_the_best_back(numbers: Path, tmp_path: Path) -> None:
    found = run(numbers, tmp_path, **BUMPY, train__patience=1)
    losses = [row["val_loss"] for row in found.curves]
    best = losses.index(min(losses))
    assert best > 0 and len(losses) == best + 2 < 12
    shorter = run(numbers, tmp_path, **{**BUMPY, "train__epochs": best + 1})
    assert all(torch.equal(found.weights[key], shorter.weights[key]) for key in shorter.weights)


def stop_after(questions: int) -> Callable[[], bool]:
    """Answers the question whether to stop with no, and from `questions` on with yes."""
    count = itertools.count(1)
    return lambda: next(count) >= questions


def interrupted(
    pictured: Path, tmp_path: Path, every: int, **values: Any
) -> tuple[Trained, list[str]]:
    """Stop each process after `every` questions whether to stop, and go on in a new one.

    Also gives its lines.
    """
    lines: list[str] = []
    while True:
        try:
            return run(pictured, tmp_path, lines.append, stop_after(every), **values), lines
        except SystemExit as end:
            assert end.code == 143
            assert len(list((tmp_path / "checkpoints").iterdir())) <= 2


PLATEAU = {
    "name": "ReduceLROnPlateau",
    "arguments": {"patience": 0, "factor": 0.7},
    "every": "epoch",
}
MOMENTUM = {"name": "SGD", "arguments": {"momentum": 0.9}}


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (
            "numbers",
            {**BUMPY, "train__patience": 4},
        ),  # the best weights and their loss have to survive
        (
            "numbers",
            {
                **BUMPY,
                "train__epochs": 4,
                "train__ema": 0.9,
                "train__schedule": PLATEAU,
                "train__optimizer": MOMENTUM,
            },
        ),
        (
            "pictures",
            {"train__batch_size": 167, "train__augment__crop": 2},
        ),  # dropout, AdamW under OneCycleLR
    ],
)
def test_a_run_that_is_stopped_again_and_again_ends_bit_equal(
    data: str, values: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With three steps and a batch of validation rows an epoch, it stops in the middle, at the end and in between."""
    tree = request.getfixturevalue(data)
    whole = run(tree, tmp_path / "whole", **values)
    parts, lines = interrupted(tree, tmp_path / "parts", 2, **values)
    assert parts.curves == whole.curves
    assert all(torch.equal(parts.weights[key], value) for key, value in whole.weights.items())
    resumes = [line for line in lines if line.startswith("resuming from epoch ")]
    assert len(resumes) > len(whole.curves)
    if "train__patience" in values:
        losses = [row["val_loss"] for row in whole.curves]
        assert len(losses) - 1 > losses.index(min(losses)) + 1, (
            "no resume came after the best epoch"
        )


def test_a_validation_loss_that_is_not_a_number_stops_training(
    numbers: Path, tmp_path: Path
) -> None:
    prepared = numbers / "data/prepared"
    val = PreparedDataset(prepared / "val")
    val.inputs = np.array(val.inputs)
    val.inputs[3, 2] = np.inf
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(
        TrainingError, match=r"^the validation loss became nan in epoch 1; lower train\.lr, set"
    ):
        fit(
            chosen(model__name="mlp"), Spec.read(prepared / "spec.json"), PreparedDataset(prepared / "train"), val,
            checkpoints, say=lambda line: None,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_batches_train(pictures: Path, tmp_path: Path, kind: str) -> None:
    assert len(run(pictures, tmp_path, **{f"train__augment__{kind}": 0.4}).curves) == 2


def test_a_plateau_lowers_the_rate(pictures: Path, tmp_path: Path) -> None:
    plateau = {
        "name": "ReduceLROnPlateau",
        "arguments": {"patience": 0, "threshold": 10.0},
        "every": "epoch",
    }
    rates = [
        row["learning_rate"]
        for row in run(pictures, tmp_path, train__schedule=plateau, train__epochs=3).curves
    ]
    assert rates == pytest.approx([0.006, 0.0006, 0.00006])


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows(pictures: Path, tmp_path: Path) -> None:
    """A model that does not learn has the same loss in each epoch."""
    rows = len(PreparedDataset(pictures / "data/prepared/train"))
    model = {"model__name": "mlp", "model__arguments": {"dropout": 0.0}}
    values = {**EXACT, **model, "train__lr": 1e-12, "train__batch_size": rows}
    curves = run(pictures, tmp_path, **values, train__epochs=3).curves
    assert len({round(row["train_loss"], 4) for row in curves}) == 1


def test_a_schedule_by_epoch_ends_with_the_last_epoch(pictures: Path, tmp_path: Path) -> None:
    cosine = {"name": "CosineAnnealingLR", "arguments": {}, "every": "epoch"}
    values = {"train__schedule": cosine, "train__epochs": 4, "train__lr": 0.1}
    rates = [row["learning_rate"] for row in run(pictures, tmp_path, **values).curves]
    expected = [0.05 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert rates == pytest.approx(expected, rel=1e-5)


def test_it_says_how_it_goes(pictures: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    run(pictures, tmp_path, say=lines.append)
    assert lines[0].startswith("cnn, 421,738 parameters, on cpu, ")
    assert lines[1].startswith("epoch 1/2  loss ")
    assert lines[1].endswith(" left")
    assert " images/s" in lines[1]
    assert lines[-1].startswith(
        "the run has only 20 steps (500 rows, 50 per step, 2 epochs), and a network rarely learns"
    )


def test_the_average_is_that_of_torch_to_the_last_bit() -> None:
    def update(
        averages: list[torch.Tensor], values: list[torch.Tensor], count: torch.Tensor
    ) -> None:
        share = 1 - min(0.9, (1 + int(count)) / (10 + int(count)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, share)
        else:
            torch._foreach_copy_(averages, values)

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
    theirs = AveragedModel(model, multi_avg_fn=update, use_buffers=True)  # type: ignore[arg-type]
    ours = Average(model, 0.9)
    for steps in range(30):
        model(torch.randn(16, 4)).sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        theirs.update_parameters(model)
        ours.update(model, steps)
    for key, value in theirs.module.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train__device": "cuda:7"}, r"train\.device: cuda:7 is not available; this machine has "),
        ({"train__device": "warp"}, r"train\.device: 'warp' is not a device; expected auto, cpu"),
        (
            {"train__schedule": {"name": "ReduceLROnPlateau", "arguments": {}, "every": "step"}},
            r"follows the validation loss; expected epoch",
        ),
        (
            {
                "train__criterion": {"name": "NLLLoss", "arguments": {}},
                "train__augment__mixup": 0.2,
            },
            r"NLLLoss does not take mixed targets",
        ),
    ],
)
def test_what_cannot_train_is_explained(
    pictures: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        run(pictures, tmp_path, **values)


@pytest.mark.fault(19)
def test_out_of_memory_proposes_a_batch_size(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(state.State, "learn", full)
    with pytest.raises(
        TrainingError,
        match=r"memory with 50 rows .* set train\.batch_size to 25, or train\.accumulate to 2",
    ):
        run(pictures, tmp_path)


class Deadly(PreparedDataset):
    """Its rows kill whoever loads them, unless that is the training process."""

    def __getitem__(self, index: int | Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.fault(19)
def test_a_loader_that_dies_is_an_error(pictures: Path, tmp_path: Path) -> None:
    prepared = pictures / "data/prepared"
    spec, train, val = (
        Spec.read(prepared / "spec.json"),
        Deadly(prepared / "train"),
        PreparedDataset(prepared / "val"),
    )
    with pytest.raises(
        TrainingError, match=r"a loader process died: .*set run\.loader_workers to 0"
    ):
        fit(chosen(run__loader_workers=1), spec, train, val, Checkpoints(tmp_path / "checkpoints"))


def test_no_rows_are_an_error(pictures: Path, tmp_path: Path) -> None:
    class Empty(PreparedDataset):
        def __len__(self) -> int:
            return 0

    empty = Empty(pictures / "data/prepared/train")
    spec = Spec.read(pictures / "data/prepared/spec.json")
    with pytest.raises(DataError, match="0 training and 0 validation rows"):
        fit(chosen(), spec, empty, empty, Checkpoints(tmp_path))
