"""Named architectures never change: their keys and shapes are golden, and so is the start of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ratchet.errors import TrainingError
from ratchet.models import architectures, torchvision_models

GOLDEN = json.loads((Path(__file__).parent / "golden_models.json").read_text())


def shapes(name: str, inputs: tuple[int, ...], classes: int) -> dict[str, list[int]]:
    return {
        key: list(value.shape)
        for key, value in architectures.build(name, {}, inputs, classes).state_dict().items()
    }


@pytest.mark.parametrize("name", architectures.OWN)
def test_named_architectures_never_change(name: str) -> None:
    golden = GOLDEN[name]
    assert shapes(name, tuple(golden["input_shape"]), golden["classes"]) == golden["tensors"]


def test_simple_net_is_the_one_that_was_asked_for() -> None:
    model = architectures.build("simple_net", {}, (10,), 2)
    assert [type(layer).__name__ for layer in model] == [
        "Flatten",
        "Linear",
        "ReLU",
        "Dropout",
        "Linear",
        "Sigmoid",
    ]
    assert architectures.parameters(model) == 10 * 50 + 50 + 50 + 1


# One of each family that adapts in its own way, run for real; `make test-long` looks at all of
# them.
SOME = [
    "resnet18",
    "mobilenet_v3_small",
    "vit_b_16",
    "googlenet",
    "squeezenet1_1",
    "regnet_y_400mf",
]
SIDE = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 56}
REST = sorted(
    name for name in set(torchvision_models.names()) - set(SOME) if not name.startswith("regnet")
)  # they refuse "meta"


def check(name: str) -> None:
    side = SIDE.get(name, 64)
    model = architectures.build(name, {}, (1, side, side), 7).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 1, side, side)).shape == (2, 7)


@pytest.mark.parametrize("name", SOME)
def test_torchvision_classifiers_take_other_channels_and_classes(name: str) -> None:
    check(name)


@pytest.mark.long
@pytest.mark.parametrize("name", REST)
def test_every_torchvision_classifier_does(name: str) -> None:
    with torch.device("meta"):  # shapes without values: the largest has 600 million
        check(name)


def test_a_class_in_custom_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "custom"
    package.mkdir()
    (package / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, input_shape, classes, width=3):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(input_shape[0], width), nn.Linear(width, classes))\n"
    )
    import custom

    monkeypatch.setattr(custom, "__path__", [str(package)])
    assert (
        architectures.parameters(architectures.build("custom.mine:Net", {"width": 2}, (4,), 2))
        == 4 * 2 + 2 + 2 * 2 + 2
    )


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "message"),
    [
        ("cmn", {}, (1, 28, 28), r"no model 'cmn'; did you mean cnn"),
        ("resnet_smal", {}, (1, 28, 28), r"did you mean resnet_small"),
        (
            "cnn",
            {"width": 3},
            (1, 28, 28),
            r"model\.arguments: cnn takes no width; it takes: widths, hidden, dropout",
        ),
        ("cnn", {}, (10,), r"cnn takes images .* found rows of shape \(10,\)"),
        ("cnn", {}, (1, 2, 2), r"cannot be halved 2 times"),
        ("cnn", {"dropout": 3}, (1, 28, 28), r"cnn cannot be built with .*dropout probability"),
        ("simple_net", {}, (10,), r"is for two classes, but the data have 3"),
        ("resnet18", {"widht": 3}, (3, 32, 32), r"resnet18 cannot be built .*widht"),
        ("os:system", {}, (10,), r"'os:system' is not a class in custom/"),
        ("custom.../../x:y", {}, (10,), r"is not a class in custom/"),
        ("custom.nothing:Here", {}, (10,), r"cannot be imported: No module named"),
    ],
)
def test_what_cannot_be_built_is_explained(
    name: str, arguments: Any, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        architectures.build(name, arguments, shape, 3)
