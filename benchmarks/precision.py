"""bfloat16 against float32, and channels-last against the usual layout: the trials behind `auto` in docs/training.md.

    python -m benchmarks.precision                        every network below, some 10 minutes
    python -m benchmarks.precision resnet18 mobilenet_v2  those alone

Each network takes training steps (forward, backward, AdamW) in its four variants in turn, so that
all meet the same load. The figures are medians.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ratchet import params as parameters
from ratchet.models import architectures, devices

NETWORKS = (
    *(
        "cnn",
        "resnet_small",
        "resnet18",
        "resnet50",
        "wide_resnet50_2",
        "resnext50_32x4d",
        "densenet121",
    ),
    *(
        "vgg11",
        "vgg11_bn",
        "alexnet",
        "squeezenet1_1",
        "googlenet",
        "inception_v3",
        "vit_b_16",
        "swin_t",
    ),
    *("regnet_x_400mf", "regnet_y_400mf", "convnext_tiny", "efficientnet_v2_s", "efficientnet_b0"),
    *("mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
)
SIDE, BATCH, THREADS = 128, 16, 2
SECONDS = 20.0  # for a network
LEAST, MOST = 3, 30  # steps of each variant


def main(names: list[str]) -> None:
    """Print a row for each network."""
    torch.set_num_threads(THREADS)
    print(f"batch {BATCH}, {SIDE} x {SIDE} pixels, {THREADS} threads; milliseconds a step")
    print("| network | float32 | bfloat16 | ratio | best layout | work | auto | auto / best |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        print(row(name), flush=True)


def row(name: str) -> str:
    """One network: `work` is `precision.depthwise_work`, `auto` what the table picks on a CPU with AVX-512 bf16."""
    model = architectures.build(name, {}, (3, SIDE, SIDE), 10)
    work = devices.depthwise_work(model, torch.zeros(1, 3, SIDE, SIDE))
    times = measured(name)
    auto = picked(model)
    best = min(times, key=times.__getitem__)
    figures = [times["float32", True], times["bfloat16", True]]
    layout = "channels-last" if best[1] else "plain"
    cells = [
        name,
        *(f"{1000 * seconds:.0f}" for seconds in figures),
        f"{figures[0] / figures[1]:.2f}",
        f"{best[0]}, {layout}",
        "–" if work is None else f"{work:.0f}",
        f"{auto[0]}, {'channels-last' if auto[1] else 'plain'}",
        f"{times[auto] / times[best]:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def picked(model: nn.Module) -> tuple[str, bool]:
    """Precision, and whether the layout is channels-last, as `auto` picks them on a CPU with AVX-512 bf16."""
    params = parameters.load().train
    able = devices.plan(params, 0)
    able = dataclasses.replace(able, device=torch.device("cpu"), bfloat16=True, channels_last=True)
    plan = devices.suited(able, params, model, torch.zeros(1, 3, SIDE, SIDE))
    return "bfloat16" if plan.bfloat16 else "float32", plan.channels_last


def measured(name: str) -> dict[tuple[str, bool], float]:
    """Seconds of a step, by precision and whether the layout is channels-last."""
    steps = {
        (kind, last): step(name, kind, last)
        for kind in ("float32", "bfloat16")
        for last in (True, False)
    }
    for take in steps.values():
        take()
    times: dict[tuple[str, bool], list[float]] = {variant: [] for variant in steps}
    began = time.monotonic()
    for turn in range(MOST):
        if turn >= LEAST and time.monotonic() - began > SECONDS:
            break
        for variant, take in steps.items():
            start = time.perf_counter()
            take()
            times[variant].append(time.perf_counter() - start)
    return {variant: statistics.median(seconds) for variant, seconds in times.items()}


def step(name: str, kind: str, last: bool) -> Callable[[], None]:
    """A training step of a new model on one fixed batch."""
    torch.manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    model = architectures.build(name, {}, (3, SIDE, SIDE), 10).train()
    model.to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=layout)
    targets = torch.randint(10, (BATCH,))

    def take() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
            outputs: Tensor = model(inputs)
        nn.functional.cross_entropy(outputs.float(), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return take


if __name__ == "__main__":
    main(sys.argv[1:] or list(NETWORKS))
