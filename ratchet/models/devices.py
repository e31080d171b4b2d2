"""How a device computes: the meaning of `auto` for each setting.

The settings are device, precision, memory layout, compilation, fused kernels, TF32 and residence.
The device and the layers of the model determine their values. Ratchet never measures at run time,
because the weights would then depend on noise. docs/training.md has the table, and
benchmarks/precision.py measures it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ratchet.errors import TrainingError
from ratchet.train_params import TrainParams

# A CPU's bfloat16 kernels for depthwise convolutions are slow. A network is slower in bfloat16 than
# in float32 if it does fewer than this many multiplications per output of its depthwise
# convolutions. Of 27 networks, those with 130 to 426 are slower, one with 611 is even, and those
# with 863 and 2,077 are faster (benchmarks/results.md).
DEPTHWISE_WORK = 600


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How this run computes; `why` is the reason for the precision."""

    device: torch.device
    bfloat16: bool
    channels_last: bool
    compile: bool
    fused: bool
    tf32: bool
    resident: bool
    why: str

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the forward pass runs."""
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def __str__(self) -> str:
        switches = {
            "channels-last": self.channels_last,
            "compiled": self.compile,
            "fused": self.fused,
            "tf32": self.tf32,
            "resident": self.resident,
        }
        parts = [str(self.device), "bfloat16" if self.bfloat16 else "float32"]
        parts += [name for name, is_on in switches.items() if is_on]
        return f"{', '.join(parts)} ({self.why})"


def plan(params: TrainParams, data_bytes: int, local: int | None = None) -> Plan:
    """Resolve every `auto` in the params.

    Args:
        params: the section `train`.
        data_bytes: size of the training inputs, in bytes; decides whether they stay on the device.
        local: number of this process among those on this machine, each of which has its own device;
            None if it is alone.

    Raises:
        TrainingError: the device is not available.
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
        why=why if params.precision == "auto" else "as set in the params",
    )


def suited(plan: Plan, params: TrainParams, model: nn.Module, rows: Tensor) -> Plan:
    """Change the precision to float32 if `auto` chose bfloat16 and this model is slower in it.

    Args:
        plan: what `plan` returned.
        params: the section `train`.
        model: the model, on the CPU.
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
    """Count multiplications per output of a depthwise convolution.

    Args:
        model: the model; all its convolutions and linear layers count.
        rows: (N, C, H, W) or (N, F) float32, some inputs of the model.

    Returns:
        The ratio, or None if the model has no depthwise convolution.
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
    """Return whether the layer convolves each channel separately."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.in_channels == layer.groups


def own(place: torch.device, local: int) -> torch.device:
    """Return the device of process `local` on this machine.

    Raises:
        TrainingError: there are fewer devices.
    """
    return place if place.type == "cpu" else device(f"{place.type}:{local}")


def select(place: torch.device) -> None:
    """Make `place` the current device, which collectives, streams and pinned memory use."""
    if place.type != "cpu":
        torch.accelerator.set_device_index(place.index or 0)


def _switch(setting: bool | str, automatic: bool) -> bool:
    return automatic if setting == "auto" else bool(setting)


def device(name: str) -> torch.device:
    """Return the device called `name`.

    Raises:
        TrainingError: `name` is not a device, or this machine does not have it.
    """
    accelerator = None
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        place = torch.device(name)
    except RuntimeError:
        raise TrainingError(
            f"train.device: {name!r} is not a device; expected auto, cpu, cuda, cuda:1, mps, ..."
        ) from None
    count = 0
    if place.type == "cpu":
        count = 1
    elif accelerator is not None and accelerator.type == place.type:
        count = torch.accelerator.device_count()
    if (place.index or 0) >= count:
        raise TrainingError(
            f"train.device: {name} is not available; "
            f"this machine has {accelerator or 'only a cpu'}; "
            "use auto"
        )
    return place


def _bfloat16(device: torch.device) -> tuple[bool, str]:
    """Return whether bfloat16 is faster than float32 on `device`, and the reason."""
    if device.type == "cpu":
        able = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        return able, f"CPU {'with' if able else 'without'} AVX-512 bf16"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"CUDA capability {major}.{minor}, bfloat16 from 8.0 on"
    return False, f"bfloat16 not measured on {device.type}"
