"""What the deployments take as parameters, checked as the server does."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import is_valid_schema, validate

from flows.training import training


@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        {"train.epochs": "3"},
        {"train.epochs": 3, "train.lr": 0.01, "train.ema": None, "train.augment.flip": False},
        {"prepare.size": [32, 32], "model.arguments": {"widths": [8]}},
    ],
)
def test_settings_may_have_any_value(settings: dict[str, Any] | None) -> None:
    schema = parameter_schema(training).model_dump_for_openapi()
    is_valid_schema(schema)
    assert not validate({"settings": settings}, schema, raise_on_error=False)
    assert training.validate_parameters({"settings": settings})["settings"] == settings


def test_settings_are_a_mapping() -> None:
    schema = parameter_schema(training).model_dump_for_openapi()
    assert validate({"settings": ["train.epochs=3"]}, schema, raise_on_error=False)
