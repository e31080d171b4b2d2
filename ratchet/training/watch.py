"""Watch the loss, stop requests and due checkpoints of a training run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ratchet.errors import TrainingError
from ratchet.training.state import REMEDY, State


class Watch:
    """Read the loss of a step only after the next step has started.

    The device therefore never waits for the reader. All processes read the same sums, so all of
    them save or stop after the same step.
    """

    def __init__(self, state: State) -> None:
        self.stop_requested = False
        self.due = False  # whether it is time for a checkpoint
        self._state = state
        self._unread: tuple[Tensor, torch.Event | None] | None = None

    def step(self, loss: Tensor, stop: bool, due: bool) -> None:
        """Take in one step, and read the one before.

        Args:
            loss: (), the sum of the step's losses on the device.
            stop: whether this process should stop.
            due: whether this process should save a checkpoint.

        Raises:
            TrainingError: the loss of the step before is not finite.
        """
        self.settle()
        if self._state.group.world == 1:  # no other process has to save after the same step
            self.due |= due
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
        """Read the step that is still unread; raise `TrainingError` if its loss is not finite."""
        if self._unread is None:
            return
        values, done = self._unread
        if done is not None:
            done.synchronize()
        loss, stop, due = values.tolist()
        if not math.isfinite(loss):
            place = f"epoch {self._state.epoch + 1}, step {self._state.step}"
            raise TrainingError(
                f"the loss became {loss} in {place}, and nothing was saved after it; {REMEDY}"
            )
        self._state.loss += loss
        self.stop_requested |= stop > 0
        self.due |= due > 0
        self._unread = None
