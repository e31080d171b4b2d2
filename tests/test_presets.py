"""The presets of params/ fit params.yaml and make a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ratchet import params as parameters
from ratchet.models import architectures
from ratchet.overrides import preset, replaced
from tests.helpers.learning_samples import ROOT

PRESETS = sorted((ROOT / "params").glob("*.yaml"))


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_presets_fit(file: Path) -> None:
    text = replaced((ROOT / "params.yaml").read_text(), preset(file))
    params = parameters.parse(YAML(typ="safe", pure=True).load(text))
    assert architectures.parameters(
        architectures.build(params.model.name, params.model.arguments, (1, 28, 28), 10)
    )
