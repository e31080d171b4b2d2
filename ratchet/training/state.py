"""The state of training: everything that changes while a model trains.

It is built from the params, saved to a checkpoint and restored from one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ratchet.dataset.normalise import Normalise
from ratchet.dataset.prepared import PreparedDataset
from ratchet.dataset.spec import Spec
from ratchet.errors import DataError, TrainingError
from ratchet.models import architectures, devices, head_checks, heads
from ratchet.models.devices import Plan
from ratchet.params import Params
from ratchet.train_params import TrainParams
from ratchet.training import batches, pretrained, recipe
from ratchet.training.average import Average
from ratchet.training.distributed import Group

REMEDY = "lower train.lr, set train.clip to 1.0, or look for extreme values in the data"
POSITION = ("epoch", "step", "loss", "learning_rate", "curves", "best_loss", "best_epoch")
PARTS = ("model", "optimizer", "schedule", "ema")


class Row(TypedDict):
    """One epoch: a line of reports/training/curves.tsv."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    learning_rate: float


class StopRequested(Exception):
    """The process received a request to stop."""


@dataclass(kw_only=True)
class State:
    """A model in training and its position: `step` steps of epoch `epoch` are done."""

    settings: TrainParams
    plan: Plan
    group: Group
    rows: int  # of an epoch
    steps: int  # of an epoch
    model: nn.Module
    wrapped: nn.Module  # the model as a step calls it: compiled, distributed
    criterion: nn.Module
    optimizer: optim.Optimizer
    schedule: LRScheduler | None
    ema: Average | None
    epoch: int = 0
    step: int = 0
    loss: float = 0.0  # sum over the rows of this epoch so far
    learning_rate: float = 0.0  # of the last step
    curves: list[Row] = field(default_factory=list)
    best_loss: float = math.inf  # on the validation rows
    best_epoch: int = 0
    best: dict[str, Tensor] | None = None

    @classmethod
    def start(
        cls,
        params: Params,
        spec: Spec,
        plan: Plan,
        group: Group,
        train: PreparedDataset,
        val: PreparedDataset,
    ) -> State:
        """Build all parts and try them on two rows.

        Raises:
            DataError: there are no training or no validation rows.
            TrainingError: the parts do not fit each other or the data.
        """
        settings, classes = params.train, len(spec.classes)
        steps = _checked_steps(settings, group, train, val)
        batches.seed_step(settings.seed, 0, 0, 0)
        model = architectures.build(
            params.model.name, params.model.arguments, spec.input_shape, classes
        )
        if params.model.pretrained is not None:
            pretrained.load(model, params.model.pretrained)
        counts = np.bincount(np.asarray(train.targets), minlength=classes)
        criterion = recipe.criterion(settings.criterion, torch.from_numpy(counts))
        mixed = spec.kind == "image" and bool(settings.augment.mixup or settings.augment.cutmix)
        inputs, _ = train[[0, len(train) - 1]]
        rows = Normalise(spec, torch.device("cpu"))(inputs)
        head_checks.check(model, criterion, rows, classes, mixed)
        plan = devices.suited(plan, settings, model, rows)
        _move(model, plan)
        optimizer = recipe.optimizer(settings, model, plan.fused)
        by_step = settings.schedule is not None and settings.schedule.every == "step"
        schedule = recipe.schedule(settings, optimizer, settings.epochs * (steps if by_step else 1))
        ema = None if settings.ema is None else Average(model, settings.ema)
        compiled: Any = torch.compile(model) if plan.compile else model
        wrapped = group.wrap(compiled, plan.device)
        return cls(
            settings=settings,
            plan=plan,
            group=group,
            rows=len(train),
            steps=steps,
            model=model,
            wrapped=wrapped.train(),
            criterion=criterion.to(plan.device),
            optimizer=optimizer,
            schedule=schedule,
            ema=ema,
        )

    # ── steps and epochs ──────────────────────────────────────────────────────────────────────────

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `train.patience` ran out."""
        patience = self.settings.patience
        return self.epoch >= self.settings.epochs or (
            patience is not None and self.epoch - self.best_epoch >= patience
        )

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take one step on this process's rows of a batch.

        Args:
            inputs: (N, C, H, W) or (N, F) float32, normalised, on the device.
            targets: (N,) int64 class numbers, or (N, classes) float shares of a mixed batch.

        Returns:
            () float32, the sum of the rows' losses, which the device may still be computing.
        """
        total = torch.zeros((), device=self.plan.device)
        count = min(self.settings.accumulate, len(inputs))
        rows = batches.rows_of(self.step, self.rows, self.settings.batch_size)
        mass = heads.mass(self.criterion, targets)  # of this process
        # The mean over the batch divides by the mass of all processes.
        batch_mass = self.group.sum(mass) if isinstance(mass, Tensor) else rows
        parts = zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True)
        self.optimizer.zero_grad()
        for number, (part_inputs, part_targets) in enumerate(parts):
            share = heads.mass(self.criterion, part_targets) / batch_mass
            is_last = number == count - 1
            with self.group.gradients(self.wrapped, exchange=is_last), self.plan.autocast():
                loss = heads.loss(self.criterion, self.wrapped(part_inputs), part_targets)
                (loss * (share * self.group.world)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() * (share * rows)
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self._advance_schedule("step")
        if self.ema is not None:
            self.ema.update(self.model, self.epoch * self.steps + self.step)
        self.step += 1
        return total

    def close_epoch(
        self, val: Iterable[tuple[Tensor, Tensor]], normalise: Normalise, stop: Callable[[], bool]
    ) -> Row:
        """Score the validation rows and move on to the next epoch.

        Args:
            val: (inputs, targets) of this process's validation rows, in batches.
            normalise: turns those inputs into float32.
            stop: returns whether to stop.

        Raises:
            StopRequested: `stop` returned True; the state is unchanged.
            TrainingError: the validation loss is not finite.
        """
        self.group.align(self.model)
        scored = self.ema.module if self.ema is not None else self.model
        loss, accuracy = self._score(scored, val, normalise, stop)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the validation loss became {loss} in epoch {self.epoch + 1}; {REMEDY}"
            )
        row = Row(
            epoch=self.epoch + 1,
            train_loss=round(self.loss / self.rows, 6),
            val_loss=round(loss, 6),
            val_accuracy=round(accuracy, 6),
            learning_rate=float(f"{self.learning_rate:.6g}"),
        )
        self._advance_schedule("epoch", row["val_loss"])
        self.epoch, self.step, self.loss = self.epoch + 1, 0, 0.0
        self.curves.append(row)
        if self.settings.patience is not None and row["val_loss"] < self.best_loss:
            self.best_loss, self.best_epoch = row["val_loss"], self.epoch
            self.best = copy.deepcopy(scored.state_dict())
        return row

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights.

        Those of the best epoch with `train.patience`, the average with `train.ema`, otherwise the
        last.
        """
        if self.best is not None:
            return self.best
        return (self.ema.module if self.ema is not None else self.model).state_dict()

    def _score(
        self,
        model: nn.Module,
        rows: Iterable[tuple[Tensor, Tensor]],
        normalise: Normalise,
        stop: Callable[[], bool],
    ) -> tuple[float, float]:
        """Compute mean loss and accuracy over all processes, in float32.

        The mean weights the classes as the criterion does.
        """
        model.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        with torch.no_grad():
            for inputs, targets in rows:
                if self.group.world == 1 and stop():
                    raise StopRequested
                targets = targets.to(self.plan.device)
                scores = model(normalise(inputs.to(self.plan.device)))
                loss = float(heads.loss(self.criterion, scores, targets))
                mass = float(heads.mass(self.criterion, targets))
                criterion = self.settings.criterion.name
                predictions = heads.probabilities(model, criterion, scores).argmax(1)
                right = float((predictions == targets).sum())
                sums += torch.tensor([loss * mass, mass, right, len(targets)], dtype=torch.float64)
        self.model.train()
        loss_sum, mass, right, count = self.group.sum(sums).tolist()
        return loss_sum / mass, right / count

    def _advance_schedule(self, moment: str, val_loss: float | None = None) -> None:
        """Step the schedule if it advances by `moment`, "step" or "epoch"."""
        settings = self.settings.schedule
        if self.schedule is None or settings is None or settings.every != moment:
            return
        if isinstance(self.schedule, ReduceLROnPlateau):
            # recipe.schedule allows it with `every: epoch` only, so there is a validation loss.
            assert val_loss is not None
            self.schedule.step(val_loss)
        else:
            self.schedule.step()

    # ── checkpoints ───────────────────────────────────────────────────────────────────────────────

    def content(self) -> dict[str, Any]:
        """Return the content of a checkpoint: tensors, numbers and strings only.

        It has no state of a random generator, because every draw follows from the position.
        """
        content = {name: getattr(self, name) for name in POSITION}
        content["best"] = self.best
        for name in PARTS:
            part = getattr(self, name)
            if part is not None:
                content[name] = part.state_dict()
        return content

    def restore(self, content: dict[str, Any]) -> None:
        """Restore the state from the content of a checkpoint, as `content` returned it."""
        for name in (*POSITION, "best"):
            setattr(self, name, content[name])
        for name in PARTS:
            part = getattr(self, name)
            if part is not None:
                part.load_state_dict(content[name])


def _checked_steps(
    settings: TrainParams, group: Group, train: PreparedDataset, val: PreparedDataset
) -> int:
    """Return the steps of an epoch; raise if there are too few rows for training."""
    if not len(train) or not len(val):
        raise DataError(
            f"data/prepared has {len(train)} training and {len(val)} validation rows, and training "
            "needs both; change prepare.val_fraction or add data"
        )
    steps = batches.steps(len(train), settings.batch_size)
    if len(train) // steps < group.world:
        raise TrainingError(
            f"train.batch_size: {settings.batch_size} rows per step are too few for {group.world} "
            "processes; raise it, or lower train.processes"
        )
    return steps


def _move(model: nn.Module, plan: Plan) -> None:
    """Move the model to its device, in the memory layout of the plan, and set TF32 there."""
    model.to(plan.device)
    if plan.channels_last:
        model.to(memory_format=torch.channels_last)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = plan.tf32
