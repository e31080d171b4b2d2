"""Everything that changes while a model trains: made from params, saved to a checkpoint, restored from one."""

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
from ratchet.models import architectures, devices, heads
from ratchet.models.devices import Plan
from ratchet.params import Params, TrainParams
from ratchet.training import batches, pretrained, recipe
from ratchet.training.distributed import Group

REMEDY = "lower train.lr, set train.clip to 1.0, or look for extreme values in the data"
POSITION = ("epoch", "step", "loss", "learning_rate", "curves", "best_loss", "best_epoch")
PARTS = ("model", "optimizer", "schedule", "ema")


class Row(TypedDict):
    """An epoch's line in reports/training/curves.tsv."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    learning_rate: float


class Asked(Exception):
    """The process was asked to stop."""


@dataclass(kw_only=True)
class State:
    """A model in training and its position: `step` steps of epoch `epoch` are done."""

    chosen: TrainParams
    plan: Plan
    group: Group
    rows: int  # of an epoch
    steps: int  # of an epoch
    model: nn.Module
    runs: nn.Module  # the model as it is called: compiled, distributed
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

        Raises `TrainingError` where they do not fit.
        """
        chosen, classes = params.train, len(spec.classes)
        if not len(train) or not len(val):
            raise DataError(
                f"data/prepared: {len(train)} training and {len(val)} validation rows; both need"
                " some"
            )
        steps = batches.steps(len(train), chosen.batch_size)
        if len(train) // steps < group.world:
            raise TrainingError(
                f"train.batch_size: {chosen.batch_size} rows a step are too few for {group.world}"
                " processes"
            )
        batches.seed_step(chosen.seed, 0, 0, 0)
        model = architectures.build(
            params.model.name, params.model.arguments, spec.input_shape, classes
        )
        if params.model.pretrained is not None:
            pretrained.load(model, params.model.pretrained)
        criterion = recipe.criterion(chosen.criterion, class_counts(train, classes))
        mixed = spec.kind == "image" and bool(chosen.augment.mixup or chosen.augment.cutmix)
        two, _ = train[[0, len(train) - 1]]
        rows = Normalise(spec, torch.device("cpu"))(two)
        heads.check(model, criterion, rows, classes, mixed)
        plan = devices.suited(plan, chosen, model, rows)
        model.to(plan.device)
        if plan.channels_last:
            model.to(memory_format=torch.channels_last)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = plan.tf32
        optimizer = recipe.optimizer(chosen, model, plan.fused)
        each_step = chosen.schedule is not None and chosen.schedule.every == "step"
        schedule = recipe.schedule(chosen, optimizer, chosen.epochs * (steps if each_step else 1))
        ema = None if chosen.ema is None else Average(model, chosen.ema)
        runs = group.wrap(torch.compile(model) if plan.compile else model, plan.device)  # type: ignore[arg-type]
        return cls(
            chosen=chosen,
            plan=plan,
            group=group,
            rows=len(train),
            steps=steps,
            model=model,
            runs=runs.train(),
            criterion=criterion.to(plan.device),
            optimizer=optimizer,
            schedule=schedule,
            ema=ema,
        )

    # ── moving ────────────────────────────────────────────────────────────────────────────────────

    @property
    def finished(self) -> bool:
        patience = self.chosen.patience
        return self.epoch >= self.chosen.epochs or (
            patience is not None and self.epoch - self.best_epoch >= patience
        )

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step on this process's rows of a batch.

        Returns (), the sum of their losses, not waited for.
        """
        total = torch.zeros((), device=self.plan.device)
        count = min(self.chosen.accumulate, len(inputs))
        rows = batches.rows_of(self.step, self.rows, self.chosen.batch_size)
        mass = heads.mass(
            self.criterion, targets
        )  # of this process; what a mean over the batch divides by
        batch_mass = self.group.sum(mass) if isinstance(mass, Tensor) else rows
        parts_of_batch = zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True)
        self.optimizer.zero_grad()
        for part, (part_inputs, part_targets) in enumerate(parts_of_batch):
            share = heads.mass(self.criterion, part_targets) / batch_mass
            with self.group.gradients(self.runs, wanted=part == count - 1), self.plan.autocast():
                loss = heads.loss(self.criterion, self.runs(part_inputs), part_targets)
                (loss * (share * self.group.world)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach() * (share * rows)
        if self.chosen.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.chosen.clip)
        self.learning_rate = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.step()
        self._move_schedule("step")
        if self.ema is not None:
            self.ema.update(self.model, self.epoch * self.steps + self.step)
        self.step += 1
        return total

    def close_epoch(
        self, val: Iterable[tuple[Tensor, Tensor]], normalise: Normalise, stop: Callable[[], bool]
    ) -> Row:
        """Score the validation rows and move on to the next epoch.

        Raises `Asked` (and has moved nothing) on `stop`.
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
        self._move_schedule("epoch", row["val_loss"])
        self.epoch, self.step, self.loss = self.epoch + 1, 0, 0.0
        self.curves.append(row)
        if self.chosen.patience is not None and row["val_loss"] < self.best_loss:
            self.best_loss, self.best_epoch = row["val_loss"], self.epoch
            self.best = copy.deepcopy(scored.state_dict())
        return row

    def weights(self) -> dict[str, Tensor]:
        """What training is for: the best epoch's weights under `patience`, the average under `ema`, else the last."""
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
        """Mean loss (weighted as the criterion weighs classes) and accuracy, over all processes.

        Float32.
        """
        model.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        with torch.no_grad():
            for inputs, targets in rows:
                if self.group.world == 1 and stop():
                    raise Asked
                targets = targets.to(self.plan.device)
                scores = model(normalise(inputs.to(self.plan.device)))
                loss = float(heads.loss(self.criterion, scores, targets))
                mass = float(heads.mass(self.criterion, targets))
                correct = (
                    heads.probabilities(model, self.chosen.criterion.name, scores).argmax(1)
                    == targets
                )
                sums += torch.tensor(
                    [loss * mass, mass, float(correct.sum()), len(targets)], dtype=torch.float64
                )
        self.model.train()
        loss_sum, mass, right, count = self.group.sum(sums).tolist()
        return loss_sum / mass, right / count

    def _move_schedule(self, moment: str, val_loss: float | None = None) -> None:
        if (
            self.schedule is None
            or self.chosen.schedule is None
            or self.chosen.schedule.every != moment
        ):
            return
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(val_loss)  # type: ignore[arg-type]  # only ever `every: epoch`, which has one
        else:
            self.schedule.step()

    # ── keeping ───────────────────────────────────────────────────────────────────────────────────

    def saved(self) -> dict[str, Any]:
        """Tensors, numbers and strings alone.

        No state of a random generator: every draw follows from the position.
        """
        return {
            **{name: getattr(self, name) for name in POSITION},
            "best": self.best,
            **{
                name: part.state_dict()
                for name in PARTS
                if (part := getattr(self, name)) is not None
            },
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up what `saved` gave."""
        for name in (*POSITION, "best"):
            setattr(self, name, saved[name])
        for name in PARTS:
            if (part := getattr(self, name)) is not None:
                part.load_state_dict(saved[name])


class Watch:
    """Reads the loss of a step only after the next one was started, so that a device never waits for its reader.

    All processes read the same sums, so all of them save or stop after the same step.
    """

    def __init__(self, state: State) -> None:
        self.asked_to_stop = False
        self.due = False  # is it time for a checkpoint?
        self._state = state
        self._unread: tuple[Tensor, torch.Event | None] | None = None

    def step(self, loss: Tensor, stop: bool, due: bool) -> None:
        """Take the () loss of a step, and whether this process was asked to stop or to save.

        Read the step before.
        """
        self.settle()
        self.due |= (
            due and self._state.group.world == 1
        )  # nobody else has to save after the same step
        flags = [torch.full_like(loss, float(flag)) for flag in (stop, due)]
        values = self._state.group.sum(torch.stack([loss, *flags]))
        if values.device.type == "cpu":
            self._unread = values, None
            return
        here = torch.empty(
            values.shape, dtype=values.dtype, pin_memory=values.device.type == "cuda"
        )
        here.copy_(values, non_blocking=True)
        done = torch.Event(values.device)
        done.record()
        self._unread = here, done

    def settle(self) -> None:
        """Read what is not read yet; raises `TrainingError` where the loss is not a number."""
        if self._unread is None:
            return
        values, done = self._unread
        if done is not None:
            done.synchronize()
        loss, stop, due = values.tolist()
        if not math.isfinite(loss):
            place = f"epoch {self._state.epoch + 1}, step {self._state.step}"
            raise TrainingError(
                f"the loss became {loss} in {place}; nothing was saved from there; {REMEDY}"
            )
        self._state.loss += loss
        self.asked_to_stop |= stop > 0
        self.due |= due > 0
        self._unread = None


def class_counts(dataset: PreparedDataset, classes: int) -> Tensor:
    """(classes,) int64: rows of each class."""
    targets = np.asarray(dataset.targets)
    return torch.from_numpy(np.bincount(targets, minlength=classes))


class Average:
    """An exponential average of a model's weights and buffers: `module` has them.

    Its decay grows from 0.1 to `decay`, so that the first weights do not linger. As
    `torch.optim.swa_utils.AveragedModel`, but counts the steps itself: that one keeps their number
    on the device, where reading it waits for the step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """Take in the model after a step; `steps` were done before it."""
        averages = [*self.module.parameters(), *self.module.buffers()]
        values = [*model.parameters(), *model.buffers()]
        floats = [index for index, value in enumerate(values) if value.is_floating_point()]
        others = [index for index, value in enumerate(values) if not value.is_floating_point()]
        if steps:
            share = 1 - min(self._decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_([averages[i] for i in floats], [values[i] for i in floats], share)
        else:
            others += floats
        for index in others:
            averages[index].copy_(values[index])

    def state_dict(self) -> dict[str, Any]:
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state)
