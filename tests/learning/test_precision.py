"""Which networks `auto` trains in bfloat16 on a CPU that has it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from tasks.learning import models, precision
from tests.learning.samples import chosen

ABLE = precision.Plan(
    device=torch.device("cpu"),
    bfloat16=True,
    channels_last=True,
    compile=False,
    fused=True,
    tf32=False,
    resident=False,
    why="CPU with AVX-512 bf16",
)


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
    model = models.build(name, {}, (3, 64, 64), 10)
    plan = precision.suited(ABLE, chosen().train, model, rows)
    assert plan.bfloat16 is bfloat16
    assert plan == dataclasses.replace(ABLE, bfloat16=bfloat16, why=plan.why)
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_choice_of_the_params_is_kept() -> None:
    model, rows = models.build("mobilenet_v2", {}, (3, 64, 64), 10), torch.zeros(1, 3, 64, 64)
    asked = dataclasses.replace(chosen().train, precision="bfloat16")
    assert precision.suited(ABLE, asked, model, rows) is ABLE
    unable = dataclasses.replace(ABLE, bfloat16=False)
    assert precision.suited(unable, chosen().train, model, rows) is unable


def test_work_counts_multiplications_by_hand() -> None:
    depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)  # 4·8·8 outputs of 9 multiplications
    dense = nn.Conv2d(4, 6, 1)  # 6·8·8 outputs of 4
    model = nn.Sequential(depthwise, dense, nn.Flatten(), nn.Linear(384, 2))  # 2 outputs of 384
    work = precision.depthwise_work(model, torch.zeros(5, 4, 8, 8))
    assert work == pytest.approx((256 * 9 + 384 * 4 + 2 * 384) / 256)
    assert precision.depthwise_work(dense, torch.zeros(1, 4, 8, 8)) is None
