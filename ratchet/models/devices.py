"""How a device computes: what `auto` means for device, precision, layout, compile, fused kernels and residence.

The table is fixed by the device and by what the model is made of. It is never a trial at run time,
which would make the weights depend on noise. docs/training.md shows it; benchmarks/precision.py
measures it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ratchet.errors import TrainingError
from ratchet.train_params import TrainParams

# Multiplications of a whole network for each output of its depthwise convolutions, below which
# bfloat16 is slower than float32 on a CPU: its kernels for such convolutions are slow. Measured on
# 27 networks: those with 130 to 426 are slower, 611 is even, 863 and 2,077 are faster
# (benchmarks/results.md).
DEPTHWISE_WORK = 600


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How this run computes; `why` gives a reason for each choice."""

    device: torch.device
    bfloat16: bool
    channels_last: bool
    compile: bool
    fused: bool
    tf32: bool
    resident: bool
    why: str

    def autocast(self) -> AbstractContextManager[object]:
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def __str__(self) -> str:
        named = {
            "channels-last": self.channels_last,
            "compiled": self.compile,
            "fused": self.fused,
            "tf32": self.tf32,
        }
        parts = [
            f"{self.device}",
            "bfloat16" if self.bfloat16 else "float32",
            *(key for key, on in named.items() if on),
        ]
        return ", ".join([*parts, *(["resident"] if self.resident else [])]) + f" ({self.why})"


def plan(params: TrainParams, data_bytes: int, local: int | None = None) -> Plan:
    """What `params` ask for, with every `auto` looked up.

    Args:
        data_bytes: size of the training inputs, for residence.
        local: number of this process among those on this machine, each of which has a device of its
            own.

    Raises:
        TrainingError: the device is not there, or cannot do what is asked.
    """
    place = device(params.device) if local is None else own(device(params.device), local)
    fast, why = _bfloat16(place)
    cuda = place.type == "cuda"
    room = torch.cuda.mem_get_info(place)[0] // 4 if cuda else 0
    return Plan(
        device=place,
        bfloat16=fast if params.precision == "auto" else params.precision == "bfloat16",
        channels_last=_switch(params.channels_last, place.type in ("cpu", "cuda")),
        compile=_switch(params.compile, False),
        fused=_switch(params.fused, place.type in ("cpu", "cuda")),
        tf32=_switch(params.tf32, cuda),
        resident=_switch(params.resident, cuda and data_bytes <= room),
        why=why if params.precision == "auto" else "as params say",
    )


def suited(plan: Plan, params: TrainParams, model: nn.Module, rows: Tensor) -> Plan:
    """The plan with float32 where `auto` chose bfloat16 on a CPU and this model is slower in it.

    Args:
        model: on the CPU.
        rows: (N, C, H, W) or (N, F) float32, some inputs of the model.
    """
    if params.precision != "auto" or not plan.bfloat16 or plan.device.type != "cpu":
        return plan
    work = depthwise_work(model, rows)
    if work is None or work >= DEPTHWISE_WORK:
        return plan
    return replace(
        plan, bfloat16=False, why=f"{plan.why}, but depthwise convolutions are slow in bfloat16"
    )


def depthwise_work(model: nn.Module, rows: Tensor) -> float | None:
    """Multiplications of all convolutions and linear layers for each output of the depthwise convolutions.

    Returns:
        None if the model has no depthwise convolution.
    """
    if not any(map(_is_depthwise, model.modules())):
        return None
    multiplications = outputs = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal multiplications, outputs
        weight = layer.get_parameter("weight")
        multiplications += output.numel() * weight[0].numel()
        outputs += output.numel() if _is_depthwise(layer) else 0

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(rows[:1])
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return multiplications / max(outputs, 1)


def _is_depthwise(layer: nn.Module) -> bool:
    """Does the layer convolve each channel by itself?"""
    return isinstance(layer, nn.Conv2d) and 1 < layer.in_channels == layer.groups


def own(named: torch.device, local: int) -> torch.device:
    """The device of process `local` on this machine.

    Raises `TrainingError` if there are fewer devices.
    """
    return named if named.type == "cpu" else device(f"{named.type}:{local}")


def select(place: torch.device) -> None:
    """Make it this process's current device, which collectives, streams and pinned memory use."""
    if place.type != "cpu":
        torch.accelerator.set_device_index(place.index or 0)


def _switch(asked: bool | str, automatic: bool) -> bool:
    return automatic if asked == "auto" else bool(asked)


def device(name: str) -> torch.device:
    """The device of a name; raises `TrainingError` if it is not there."""
    if name == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise TrainingError(
            f"train.device: {name!r} is no device; expected auto, cpu, cuda, cuda:1, mps, ..."
        ) from None
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    known = wanted.type == "cpu" or (there is not None and there.type == wanted.type)
    if not known or (wanted.index or 0) >= (
        torch.accelerator.device_count() if wanted.type != "cpu" else 1
    ):
        raise TrainingError(
            f"train.device: {name} is not there; this machine has {there or 'cpu alone'}; take auto"
        )
    return wanted


def _bfloat16(device: torch.device) -> tuple[bool, str]:
    """Whether bfloat16 is faster than float32 there, and why."""
    if device.type == "cpu":
        able = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        return able, f"CPU {'with' if able else 'without'} AVX-512 bf16"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"CUDA capability {major}.{minor}, bfloat16 from 8.0 on"
    return False, f"bfloat16 not measured on {device.type}"
