"""The table of `auto`, and which networks it trains in bfloat16 on a CPU that has it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from ratchet.errors import TrainingError
from ratchet.models import architectures, devices
from tests.helpers.learning_samples import chosen

ABLE = devices.Plan(
    device=torch.device("cpu"),
    bfloat16=True,
    channels_last=True,
    compile=False,
    fused=True,
    tf32=False,
    resident=False,
    why="CPU with AVX-512 bf16",
)


AUTO = ("bfloat16", "channels_last", "compile", "fused", "tf32", "resident")


def on(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    *,
    capability: tuple[int, int] = (8, 0),
    bf16: bool = False,
    free: int = 40,
) -> None:
    """Make this a machine with two devices of `kind`, or with a CPU alone."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind != "cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (free, 1000))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": bf16, "avx2": True})


@pytest.mark.parametrize(
    ("kind", "machine", "expected", "why"),
    [
        ("cpu", {"bf16": True}, (True, True, False, True, False, False), "CPU with AVX-512 bf16"),
        ("cpu", {"bf16": False}, (False, True, False, True, False, False), "CPU without AVX-512 bf16"),
        ("cuda", {}, (True, True, False, True, True, True), "CUDA capability 8.0, bfloat16 from 8.0 on"),
        ("cuda", {"capability": (7, 5)}, (False, True, False, True, True, True), "CUDA capability 7.5, bfloat16 from 8.0 on"),
        ("cuda", {"free": 39}, (True, True, False, True, True, False), "CUDA capability 8.0, bfloat16 from 8.0 on"),
        ("mps", {}, (False, False, False, False, False, False), "bfloat16 not measured on mps"),
    ],
)  # fmt: skip
def test_the_table_of_auto(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    machine: dict[str, Any],
    expected: tuple[bool, ...],
    why: str,
) -> None:
    """As docs/training.md has it, for 10 bytes of training rows."""
    on(monkeypatch, kind, **machine)
    plan = devices.plan(chosen().train, 10)
    assert plan.device.type == kind
    assert tuple(getattr(plan, name) for name in AUTO) == expected
    assert plan.why == why


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("asked", [True, False])
def test_what_the_params_ask_for_goes_before_auto(
    monkeypatch: pytest.MonkeyPatch, kind: str, asked: bool
) -> None:
    on(
        monkeypatch,
        kind,
        bf16=not asked,
        capability=(7 if asked else 9, 0),
        free=0 if asked else 1000,
    )
    precise = {"train__precision": "bfloat16" if asked else "float32"}
    params = chosen(**{f"train__{name}": asked for name in AUTO[1:]}, **precise).train
    plan = devices.plan(params, 10)
    assert [getattr(plan, name) for name in AUTO] == [asked] * len(AUTO)
    named = "bfloat16, channels-last, compiled, fused, tf32, resident" if asked else "float32"
    assert str(plan) == f"{kind}, {named} (as set in the params)"


@pytest.mark.parametrize("bfloat16", [True, False])
def test_autocast_is_bfloat16_or_nothing(bfloat16: bool) -> None:
    layer, rows = nn.Linear(2, 2), torch.ones(1, 2)
    with dataclasses.replace(ABLE, bfloat16=bfloat16).autocast():
        assert layer(rows).dtype == (torch.bfloat16 if bfloat16 else torch.float32)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "cuda")
    assert devices.device("cuda:1") == torch.device("cuda:1")
    assert devices.device("cpu") == torch.device("cpu")
    assert devices.own(torch.device("cpu"), 5) == torch.device("cpu")
    assert devices.own(torch.device("cuda"), 1) == torch.device("cuda:1")
    for name, words in (
        ("cuda:2", "this machine has cuda"),
        ("mps", "this machine has cuda"),
        ("cpu:1", "cuda"),
    ):
        with pytest.raises(
            TrainingError, match=rf"train\.device: {name} is not available; .*{words}"
        ):
            devices.device(name)
    on(monkeypatch, "cpu")
    assert devices.device("auto") == torch.device("cpu")
    with pytest.raises(TrainingError, match=r"cuda is not available; this machine has only a cpu"):
        devices.device("cuda")


@pytest.mark.parametrize(
    ("name", "bfloat16"),
    [
        ("cnn", True),
        ("resnet_small", True),
        ("resnet18", True),
        ("regnet_x_400mf", True),  # grouped convolutions, none of them depthwise
        ("vit_b_16", True),
        ("convnext_tiny", True),  # depthwise convolutions, and much work beside them
        ("efficientnet_v2_s", True),
        ("efficientnet_b0", False),
        ("mnasnet1_0", False),
        ("mobilenet_v2", False),
        ("mobilenet_v3_small", False),
        ("shufflenet_v2_x1_0", False),
    ],
)
def test_depthwise_networks_stay_in_float32(name: str, bfloat16: bool) -> None:
    rows = torch.zeros(2, 3, 64, 64)
    model = architectures.build(name, {}, (3, 64, 64), 10)
    plan = devices.suited(ABLE, chosen().train, model, rows)
    assert plan.bfloat16 is bfloat16
    assert plan == dataclasses.replace(ABLE, bfloat16=bfloat16, why=plan.why)
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_choice_of_the_params_is_kept() -> None:
    model, rows = (
        architectures.build("mobilenet_v2", {}, (3, 64, 64), 10),
        torch.zeros(1, 3, 64, 64),
    )
    asked = dataclasses.replace(chosen().train, precision="bfloat16")
    assert devices.suited(ABLE, asked, model, rows) is ABLE
    unable = dataclasses.replace(ABLE, bfloat16=False)
    assert devices.suited(unable, chosen().train, model, rows) is unable


def test_work_counts_multiplications_by_hand() -> None:
    depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)  # 4·8·8 outputs of 9 multiplications
    dense = nn.Conv2d(4, 6, 1)  # 6·8·8 outputs of 4
    model = nn.Sequential(depthwise, dense, nn.Flatten(), nn.Linear(384, 2))  # 2 outputs of 384
    work = devices.depthwise_work(model, torch.zeros(5, 4, 8, 8))
    assert work == pytest.approx((256 * 9 + 384 * 4 + 2 * 384) / 256)
    assert devices.depthwise_work(dense, torch.zeros(1, 4, 8, 8)) is None
