"""A version with a class from custom/ is built from its own commit: by load, predict, export and verify alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ratchet import load
from ratchet.errors import CorruptModel
from ratchet.models.card import load_model
from ratchet.registry import loading
from ratchet.upkeep import export as exports
from tests.helpers.toy import Toy
from tests.tasks.test_gate import train

NET = """\
import torch
from torch import nn

from custom.{place}parts import Layer


class Net(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.layer = Layer(input_shape[0], classes)

    def forward(self, inputs):
        return torch.relu(self.layer(inputs))
"""
PARTS = "from torch.nn import Linear as Layer\n"
ROWS = torch.linspace(-3, 3, 7).view(-1, 1)


def written(toy: Toy, place: str) -> Tensor:
    """Release a version whose model is in `custom/<place>`; returns its outputs."""
    folder = f"custom/{place.replace('.', '/')}"
    toy.write({f"{folder}net.py": NET.format(place=place), f"{folder}parts.py": PARTS})
    toy.commit("Write a model")
    train(toy, 0.2, model=f"custom.{place}net:Net", keys=("layer.weight", "layer.bias"))
    with torch.no_grad():
        return load("prod", toy.tree)(ROWS)


def tanh(tree: Path, folder: Path) -> None:
    (folder / "net.py").write_text((folder / "net.py").read_text().replace("relu", "tanh"))


def renamed(tree: Path, folder: Path) -> None:
    (folder / "net.py").rename(folder / "network.py")


def helper_edited(tree: Path, folder: Path) -> None:
    (folder / "parts.py").write_text("raise SystemExit('the code of the branch ran')\n")


def removed(tree: Path, folder: Path) -> None:
    shutil.rmtree(tree / "custom")


EDITS = [tanh, renamed, helper_edited, removed]


@pytest.mark.parametrize(("edit", "place"), [*((edit, "models.") for edit in EDITS), (tanh, "")])
def test_edits_in_the_checkout_do_not_change_an_old_version(
    toy: Toy, place: str, edit: Callable[[Path, Path], None]
) -> None:
    expected = written(toy, place)
    edit(toy.tree, toy.tree / "custom" / place.replace(".", "/"))
    (toy.tree / "keep").write_text("")
    toy.commit("Change the model")
    with torch.no_grad():
        assert torch.equal(load("v1.0.0", toy.tree)(ROWS), expected)
        model, card = loading.built(toy.tree, toy.registry.find("prod"))
        assert torch.equal(model(ROWS), expected)
    assert card.architecture["name"] == f"custom.{place}net:Net"


@pytest.mark.parametrize(
    ("format", "edit"), [*((name, tanh) for name in exports.FORMATS), ("whole_model", removed)]
)
def test_an_export_is_the_version_and_not_the_checkout(
    toy: Toy, tmp_path: Path, format: str, edit: Callable[[Path, Path], None]
) -> None:
    expected = written(toy, "models.")
    edit(toy.tree, toy.tree / "custom/models")
    version = toy.registry.find("v1.0.0")
    weights, card = loading.files(toy.tree, version)
    package = loading.package(toy.tree, version, card)
    target = tmp_path / "model.bin"
    exports.export(card, weights, format, target, package)
    assert target.stat().st_mode & 0o777 == card.parent.stat().st_mode & 0o666, "as any other file"
    if format == "whole_model":
        model = load_model(target, trust=True)[0]
    else:
        model = exports.FORMATS[format].load(target, loading.built(toy.tree, version)[1], package)
    with torch.no_grad():
        assert torch.allclose(model(ROWS), expected, atol=1e-6)


def test_code_that_does_not_run_is_one_line(toy: Toy) -> None:
    written(toy, "models.")
    commit = toy.registry.find("v1.0.0").commit
    toy.write({"custom/models/net.py": "1 / 0\n"})
    toy.commit("Break the model")
    train(toy, 0.1, model="custom.models.net:Net", keys=("layer.weight", "layer.bias"))
    newest = toy.registry.versions()[0]
    assert newest.commit != commit
    with pytest.raises(
        CorruptModel,
        match=r"cannot be built with the custom/ of its own commit .*: division by zero",
    ):
        loading.built(toy.tree, newest)
