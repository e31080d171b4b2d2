"""The exponential moving average of a model's weights (`train.ema`)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Average:
    """An exponential moving average of a model's weights and buffers, in `module`.

    The decay grows from 0.1 to `decay`, so that the first weights do not linger. The result equals
    that of `torch.optim.swa_utils.AveragedModel`. That class keeps the number of steps on the
    device, where reading it waits for the step, so this one takes it from the caller.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """Add the weights of `model` after a step; `steps` is the number of steps before it."""
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
        """Return the averaged weights and buffers by name."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Replace the averaged weights and buffers."""
        self.module.load_state_dict(state)
