"""The presets of params/ fit params.yaml and make a model."""

from __future__ import annotations

import pytest
import ruamel.yaml

from tasks.learning import models
from tests.learning.samples import ROOT, chosen

PRESETS = sorted((ROOT / "params").glob("*.yaml"))


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_presets_fit(file: object) -> None:
    held = ruamel.yaml.YAML(typ="safe", pure=True).load(file)
    params = chosen(**{key.replace(".", "__"): value for key, value in held.items()})
    assert models.parameters(models.build(params.model.name, params.model.arguments, (1, 28, 28), 10))
