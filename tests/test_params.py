"""params.yaml: read as DVC reads it, and every fault named at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import params
from tasks.errors import ParamsError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def raw() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    return content


def test_the_file_of_the_repository_is_read() -> None:
    assert params.load(ROOT).train.epochs == params.load(ROOT).train.epochs > 0


def test_numbers_are_yaml_1_2(tmp_path: Path) -> None:
    text = re.sub(r"max_bad_fraction: \S+", "max_bad_fraction: 1e-3", (ROOT / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(text)
    assert params.load(tmp_path).validate.max_bad_fraction == 0.001


def change(section: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw[section].__setitem__(key, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw["train"].pop("epochs"), "train.epochs: missing; every value has to stand in params.yaml"),
        (change("train", "epohcs", 3), "train.epohcs: unknown key; did you mean epochs?"),
        (change("train", "epochs", "3"), "train.epochs: found '3'; input should be a valid integer"),
        (change("train", "epochs", 0), "train.epochs: found 0; input should be greater than or equal to 1"),
        (change("train", "batch_size", 0), "train.batch_size: found 0; input should be greater than or equal to 1"),
        (change("train", "epochs", True), "train.epochs: found True; input should be a valid integer"),
        (change("gate", "min_accuracy", 1.5), "gate.min_accuracy: found 1.5; input should be less than or equal to 1"),
        (
            lambda raw: raw["ingest"]["sources"][0].update(nmae=1),
            "ingest.sources.0.nmae: unknown key; did you mean name?",
        ),
        (lambda raw: raw["ingest"]["sources"][0].update(type="ftp"), "ingest.sources.0: found"),
        (lambda raw: raw.update(trian={}), "trian: unknown key; did you mean train?"),
    ],
)
def test_a_fault_is_named_with_what_was_expected(raw: dict[str, Any], edit: Callable[[Any], Any], message: str) -> None:
    edit(raw)
    with pytest.raises(ParamsError, match=re.escape(message)):
        params.parse(raw)


def test_all_faults_are_reported_at_once(raw: dict[str, Any]) -> None:
    raw["train"]["epohcs"] = raw["train"].pop("epochs")
    raw["run"]["workers"] = "two"
    with pytest.raises(ParamsError, match=r"3 to mend") as caught:
        params.parse(raw)
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "train.epochs",
        "train.epohcs",
        "run.workers",
    ]


def test_a_file_that_is_missing_or_no_yaml_says_so(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params.yaml is not in .*; run this in a Ratchet checkout"):
        params.load(tmp_path)
    (tmp_path / "params.yaml").write_text("train: [")
    with pytest.raises(ParamsError, match=r"params.yaml is no YAML 1.2: .* line 1"):
        params.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"--params .*mine\.yaml: there is no such file; presets lie in params/"),
        ("- 1\n", r"mine\.yaml: expected a line KEY: VALUE for each value, such as train\.epochs: 12"),
        ("a: [", r"mine\.yaml is no YAML 1\.2"),
    ],
)
def test_a_preset_that_is_none_is_explained(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ParamsError, match=message):
        params.preset(file)


def test_a_preset_gives_what_set_takes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train.lr: 1e-3\ntrain.schedule: null\nmodel.arguments: {widths: [8, 16]}\n")
    assert params.preset(file) == {
        "train.lr": "0.001",
        "train.schedule": "null",
        "model.arguments": '{"widths": [8, 16]}',
    }
