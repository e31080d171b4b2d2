"""The training loop: prepare → (batch → augment → loss → gradients → step)* → evaluate, per epoch.

A position in training is two integers, (epoch, step). Together with the seed they determine which
rows come next and every random draw (batches.py). A killed run therefore resumes from its last
checkpoint and ends bit-equal to an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ratchet.dataset.normalise import Normalise
from ratchet.dataset.prepared import PreparedDataset
from ratchet.dataset.spec import Spec
from ratchet.errors import TrainingError
from ratchet.models import architectures, devices
from ratchet.params import Params, RunParams
from ratchet.train_params import TrainParams
from ratchet.training import batches
from ratchet.training.augment import augment, mixer
from ratchet.training.checkpoint import Checkpoints
from ratchet.training.distributed import ALONE, STOPPED, Group
from ratchet.training.progress import Display
from ratchet.training.state import Row, State, StopRequested
from ratchet.training.watch import Watch

FEW_STEPS = 100  # a network rarely learns in a run with fewer steps


@dataclass(frozen=True)
class Trained:
    """The result of a training run."""

    weights: dict[str, Tensor]
    curves: list[Row]  # one per epoch
    device_type: str


def fit(
    params: Params,
    spec: Spec,
    train: PreparedDataset,
    val: PreparedDataset,
    checkpoints: Checkpoints,
    *,
    group: Group = ALONE,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
) -> Trained:
    """Train the model that `params` describe, from the newest checkpoint if there is one.

    Args:
        params: all params; `model`, `train` and `run` are used.
        spec: shape, classes and statistics of the prepared data.
        train: the training rows.
        val: the validation rows.
        checkpoints: where this run saves its state.
        group: this process among those that train together.
        stop: returns whether the run should save a checkpoint and end.
        say: prints a line of progress.

    Raises:
        DataError: there are no training or no validation rows.
        TrainingError: the params do not fit each other or the data, the loss is not finite, or
            memory runs out.
        SystemExit: `stop` returned True; a checkpoint is saved.
    """
    settings = params.train
    torch.set_num_threads(settings.threads)
    if not group.leads:
        say = _silent

    # ── the model and its device ──────────────────────────────────────────────────────────────────
    local = group.local if group.world > 1 else None
    plan = devices.plan(settings, len(train) * _row_bytes(train), local)
    state = State.start(params, spec, plan, group, train, val)
    plan = state.plan
    _resume(state, checkpoints, group, say)
    say(f"{params.model.name}, {architectures.parameters(state.model):,} parameters, on {plan}")
    normalise = Normalise(spec, plan.device, plan.channels_last)
    mix = mixer(settings.augment, len(spec.classes)) if spec.kind == "image" else None
    copy = batches.resident(train, plan.device) if plan.resident else None
    due = time.monotonic() + params.run.checkpoint_seconds

    done, total = state.epoch * state.steps + state.step, settings.epochs * state.steps
    unit = "images" if spec.kind == "image" else "rows"
    progress = Display(done, total, len(train) / state.steps, say, group.leads, unit)
    with _advice(settings, params.run), progress as display:
        while not state.finished:
            # ── one epoch ─────────────────────────────────────────────────────────────────────────
            watch = Watch(state)
            order = batches.Order(
                len(train), settings.batch_size, settings.seed, state.epoch, state.step, group
            )
            for inputs, targets in batches.batches(
                train, order, plan.device, params.run.loader_workers, copy
            ):
                batches.seed_step(settings.seed, state.epoch, state.step, group.rank)
                if spec.kind == "image":
                    inputs = augment(inputs, settings.augment)
                inputs = normalise(inputs)
                if mix is not None:
                    inputs, targets = mix(inputs, targets)
                loss = state.learn(inputs, targets)
                watch.step(loss, stop(), due=group.leads and time.monotonic() >= due)
                display.step(f"epoch {state.epoch + 1}/{settings.epochs}")
                if watch.stop_requested or watch.due:
                    watch.settle()
                    _save(state, checkpoints, group)
                    watch.due, due = False, time.monotonic() + params.run.checkpoint_seconds
                if watch.stop_requested:
                    raise SystemExit(STOPPED)
            watch.settle()

            # ── its validation ────────────────────────────────────────────────────────────────────
            try:
                row = state.close_epoch(_rows(val, settings, group), normalise, stop)
            except StopRequested:
                _save(state, checkpoints, group)
                raise SystemExit(STOPPED) from None
            display.epoch(
                f"epoch {state.epoch}/{settings.epochs}  loss {row['train_loss']:.4f}  accuracy "
                f"{row['val_accuracy']:.4f}  lr {row['learning_rate']:.4f}"
            )
    _warn_if_few_steps(total, len(train), settings, say)
    return Trained(weights=state.weights(), curves=state.curves, device_type=plan.device.type)


def _silent(_line: str) -> None:
    """Print nothing: only the leader of a group reports progress."""


def _resume(
    state: State, checkpoints: Checkpoints, group: Group, say: Callable[[str], None]
) -> None:
    """Restore the newest checkpoint, if there is one, in every process of the group."""
    checkpoint = group.share(checkpoints.load() if group.leads else None)
    if checkpoint:
        state.restore(checkpoint)
        say(f"resuming from epoch {state.epoch + 1}, step {state.step}")


def _save(state: State, checkpoints: Checkpoints, group: Group) -> None:
    if group.leads:
        checkpoints.save(state.content(), state.epoch, state.step)


def _warn_if_few_steps(
    total: int, rows: int, settings: TrainParams, say: Callable[[str], None]
) -> None:
    if total < FEW_STEPS:
        say(
            f"the run has only {total:,} steps ({rows:,} rows, {settings.batch_size:,} per step, "
            f"{settings.epochs} epochs), and a network rarely learns in so few; "
            "raise train.epochs or lower train.batch_size"
        )


def _rows(
    dataset: PreparedDataset, settings: TrainParams, group: Group
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's share of the rows in order, one batch at a time."""
    share = list(range(group.rank, len(dataset), group.world))
    for start in range(0, len(share), settings.batch_size):
        yield dataset[share[start : start + settings.batch_size]]


def _row_bytes(dataset: PreparedDataset) -> int:
    inputs, _ = dataset[[0]]
    return inputs.numel() * inputs.element_size()


@contextlib.contextmanager
def _advice(settings: TrainParams, run: RunParams) -> Iterator[None]:
    """Explain what to do when this process or a loader process runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if "DataLoader worker" in str(error):
            raise TrainingError(
                f"a loader process died: {error}; "
                "run it again to resume from the last checkpoint, and if memory ran out, set "
                f"run.loader_workers to {run.loader_workers // 2} first"
            ) from error
        out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not out_of_memory and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            f"out of memory with {settings.batch_size} rows per step in {settings.accumulate} "
            f"parts; set train.batch_size to {max(1, settings.batch_size // 2)}, or "
            f"train.accumulate to {settings.accumulate * 2}"
        ) from error
