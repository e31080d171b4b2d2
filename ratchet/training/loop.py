"""The training loop, top to bottom: prepare → (batch → augment → loss → gradients → step)* → evaluate, epoch by epoch.

A position in it is two integers, (epoch, step): which rows come next and every random draw follow
from them and the seed (batches.py), so a run that was killed goes on from its last checkpoint and
ends bit-equal to one that was not.
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
from ratchet.params import Params, RunParams, TrainParams
from ratchet.training import batches
from ratchet.training.augment import augment, mixer
from ratchet.training.checkpoint import Checkpoints
from ratchet.training.distributed import ALONE, STOPPED, Group
from ratchet.training.progress import Display
from ratchet.training.state import Asked, Row, State, Watch

FEW_STEPS = 100  # of a whole run, below which a network rarely learns


@dataclass(frozen=True)
class Trained:
    """What a run ends with."""

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

    Raises:
        TrainingError: params do not fit each other or the data, the loss is no number, or memory
        ran out.
        SystemExit: `stop` said so; a checkpoint was written.
    """
    chosen = params.train
    torch.set_num_threads(chosen.threads)
    if not group.leads:
        say = _silent

    # ── what trains, and where ────────────────────────────────────────────────────────────────────
    plan = devices.plan(
        chosen, len(train) * _row_bytes(train), group.local if group.world > 1 else None
    )
    state = State.start(params, spec, plan, group, train, val)
    plan = state.plan
    if saved := group.share(checkpoints.load() if group.leads else None):
        state.restore(saved)
        say(f"goes on from epoch {state.epoch + 1}, step {state.step}")
    say(f"{params.model.name}, {architectures.parameters(state.model):,} parameters, on {plan}")
    normalise = Normalise(spec, plan.device, plan.channels_last)
    mix = mixer(chosen.augment, len(spec.classes)) if spec.kind == "image" else None
    copy = batches.resident(train, plan.device) if plan.resident else None
    due = time.monotonic() + params.run.checkpoint_seconds

    done, total = state.epoch * state.steps + state.step, chosen.epochs * state.steps
    unit = "images" if spec.kind == "image" else "rows"
    progress = Display(done, total, len(train) / state.steps, say, group.leads, unit)
    with _advice(chosen, params.run), progress as display:
        while not state.finished:
            # ── one epoch ─────────────────────────────────────────────────────────────────────────
            watch = Watch(state)
            order = batches.Order(
                len(train), chosen.batch_size, chosen.seed, state.epoch, state.step, group
            )
            for inputs, targets in batches.batches(
                train, order, plan.device, params.run.loader_workers, copy
            ):
                batches.seed_step(chosen.seed, state.epoch, state.step, group.rank)
                if spec.kind == "image":
                    inputs = augment(inputs, chosen.augment)
                inputs = normalise(inputs)
                if mix is not None:
                    inputs, targets = mix(inputs, targets)
                loss = state.learn(inputs, targets)
                watch.step(loss, stop(), due=group.leads and time.monotonic() >= due)
                display.step(f"epoch {state.epoch + 1}/{chosen.epochs}")
                if watch.asked_to_stop or watch.due:
                    watch.settle()
                    _save(state, checkpoints, group)
                    watch.due, due = False, time.monotonic() + params.run.checkpoint_seconds
                if watch.asked_to_stop:
                    raise SystemExit(STOPPED)
            watch.settle()

            # ── how good it is now ────────────────────────────────────────────────────────────────
            try:
                row = state.close_epoch(_rows(val, chosen, group), normalise, stop)
            except Asked:
                _save(state, checkpoints, group)
                raise SystemExit(STOPPED) from None
            display.epoch(
                f"epoch {state.epoch}/{chosen.epochs}  loss {row['train_loss']:.4f}  accuracy"
                f" {row['val_accuracy']:.4f}  lr {row['learning_rate']:.4f}"
            )
    if total < FEW_STEPS:
        say(
            f"only {total:,} steps in all ({len(train):,} rows, {chosen.batch_size:,} a step,"
            f" {chosen.epochs} epochs), which rarely suffice; raise train.epochs or lower"
            " train.batch_size"
        )
    return Trained(weights=state.weights(), curves=state.curves, device_type=plan.device.type)


def _silent(_line: str) -> None:
    """Followers say nothing."""


def _save(state: State, checkpoints: Checkpoints, group: Group) -> None:
    if group.leads:
        checkpoints.save(state.saved(), state.epoch, state.step)


def _rows(
    dataset: PreparedDataset, chosen: TrainParams, group: Group
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the rows in their order, a batch at a time."""
    mine = list(range(group.rank, len(dataset), group.world))
    for start in range(0, len(mine), chosen.batch_size):
        yield dataset[mine[start : start + chosen.batch_size]]


def _row_bytes(dataset: PreparedDataset) -> int:
    inputs, _ = dataset[[0]]
    return inputs.numel() * inputs.element_size()


@contextlib.contextmanager
def _advice(chosen: TrainParams, run: RunParams) -> Iterator[None]:
    """Turn running out of memory, here or in a worker, into advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if "DataLoader worker" in str(error):
            raise TrainingError(
                f"a loader process died: {error}; set run.loader_workers to"
                f" {run.loader_workers // 2} if memory ran out, and run it again to go on from the"
                " last checkpoint"
            ) from error
        short = isinstance(
            error, (MemoryError, torch.OutOfMemoryError)
        ) or "can't allocate memory" in str(error)
        if not short:
            raise
        raise TrainingError(
            f"out of memory with {chosen.batch_size} rows a step in {chosen.accumulate} parts; set"
            f" train.batch_size to {max(1, chosen.batch_size // 2)}, or train.accumulate to"
            f" {chosen.accumulate * 2}"
        ) from error
