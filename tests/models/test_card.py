"""A card with a wrong field is refused with its place, before anything is built from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import CorruptModel
from ratchet.models.card import Card
from tests.helpers.learning_samples import Trainer

pytest_plugins = ["tests.helpers.learning_fixtures"]


def _set(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("architecture", "name", value=3),
        _set("architecture", "arguments", value="widths"),
        _set("architecture", "arguments", value=3),
        _set("architecture", value=[]),
        _set("params", value={}),
        _set("params", "train", value={"criterion": {}}),
        _set("spec", value={"kind": "features"}),
        _set("spec", value=None),
        lambda content: content.pop("weights_sha256"),
        lambda content: content.pop("architecture"),
    ],
)
def test_a_wrong_field_is_refused(
    tables: Path, trained: Trainer, change: Callable[[dict[str, Any]], None]
) -> None:
    trained(tables, model__name="mlp", train__epochs=1)
    file = tables / "models/classifier.json"
    content = json.loads(file.read_text())
    assert Card.parse(content, file).architecture["name"] == "mlp"
    change(content)
    with pytest.raises(CorruptModel, match=r"classifier\.json"):
        Card.parse(content, file)
