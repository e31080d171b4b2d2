"""Values for one run: they replace those of params.yaml, and what it does not take is reported at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml

from ratchet import params
from ratchet.errors import ParamsError
from ratchet.overrides import in_words, lasting, replaced

TEXT = (Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8")
HEADING = "--set (the settings of this run)"

TAKEN: list[tuple[str, Any, Any]] = [  # key, value, what the file then holds
    ("train.epochs", "3", 3),
    ("train.epochs", 3, 3),
    ("train.lr", "1e-3", 0.001),
    ("train.lr", 0.25, 0.25),
    ("train.ema", "null", None),
    ("train.ema", None, None),
    ("train.augment.flip", False, False),
    ("train.criterion.name", "custom.models.net:Loss", "custom.models.net:Loss"),
    ("train.criterion", {"name": "custom.a:B", "arguments": {"x": [1, "a: b"]}}, None),
    ("model.arguments", "{widths: [8, 16]}", {"widths": [8, 16]}),
    ("ingest.sources.0.root", "file:///data", "file:///data"),
    ("ingest.sources", [{"type": "imagefolder", "path": "https://host/x"}], None),
    ("prepare.size", (32, 32), [32, 32]),
    ("prepare.size.1", "32", 32),
    (
        "train.criterion.arguments",
        {"weight": "x:y", "more": ["a:b"]},
        None,
    ),  # between the braces of the file
]


def at(content: Any, key: str) -> Any:
    for part in key.split("."):
        content = content[int(part) if part.isdigit() else part]
    return content


@pytest.mark.parametrize(
    ("key", "value", "expected"), TAKEN, ids=[f"{key}={value}" for key, value, _ in TAKEN]
)
def test_a_value_is_replaced_and_nothing_else(key: str, value: Any, expected: Any) -> None:
    text = replaced(TEXT, {key: value})
    content = parse_yaml(text, "params.yaml")  # as DVC reads it
    assert at(content, key) == (
        expected if expected is not None or value in (None, "null") else value
    )
    params.parse(content)
    untouched = [line for line in TEXT.splitlines() if line not in text.splitlines()]
    assert len(untouched) <= (5 if key == "ingest.sources" else 1), untouched


def test_without_settings_the_text_stays() -> None:
    assert replaced(TEXT, {}) == TEXT


REFUSED: list[tuple[str, Any, str]] = [
    ("epochs", "3", "epochs: unknown key; did you mean train.epochs?"),
    ("batch_size", 3, "batch_size: unknown key; did you mean train.batch_size or evaluate.batch_size?"),
    ("train.epohcs", "3", "train.epohcs: unknown key; did you mean train.epochs?"),
    ("trian.epochs", "3", "trian.epochs: unknown key trian; did you mean train?"),
    ("train.optimiser.name", "SGD", "train.optimiser.name: unknown key train.optimiser; did you mean train.optimizer?"),
    ("train.epochs", "'3'", 'train.epochs: expected a whole number, found "3"; remove the quotes'),
    ("train.epochs", "three", 'train.epochs: expected a whole number, found "three"'),
    ("train.epochs", True, "train.epochs: expected a whole number, found true"),
    ("train.epochs.x", "3", "train.epochs.x: train.epochs is 8; set it as a whole, train.epochs=VALUE"),
    ("model.pretrained.file", "x", "model.pretrained.file: model.pretrained is null; set it as a whole, "
                                   "model.pretrained={file: ..., sha256: ...}"),
    ("ingest.sources.1.root", "x", "ingest.sources.1.root: ingest.sources has no entry 1; the first one is 0"),
    ("ingest.sources.0.path", "x", "ingest.sources.0.path: unknown key; a torchvision source takes "
                                   "type, name, root and arguments"),
    ("ingest.sources.1", "x", "ingest.sources.1: ingest.sources has no entry 1; the first one is 0"),
    ("prepare.size.x", "3", "prepare.size.x: prepare.size has no entry x; the first one is 0"),
    ("ingest.keep.0", "a", "ingest.keep.0: ingest.keep has no entry 0; it is empty: set it as a whole, ingest.keep=[...]"),
    ("train", "3", "train: expected a mapping, found 3"),
    ("train.epochs", "[3", "train.epochs=[3 is not valid YAML at line 2, column 1: did not find expected ',' or ']'; "
                           "close the bracket, and separate the entries with commas"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "message"), REFUSED, ids=[f"{key}={value}" for key, value, _ in REFUSED]
)
def test_a_setting_that_is_not_taken_is_one_line(key: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        replaced(TEXT, {key: value})
    assert str(caught.value).splitlines() == [f"{HEADING}: 1 problem", f"  {message}"]


def test_all_are_reported_at_once_apart_from_those_of_the_file() -> None:
    text = TEXT.replace("seed: 0 ", "seed: x ")
    with pytest.raises(ParamsError) as caught:
        replaced(text, {"epochs": "3", "train.lr": "x", "a.b": 1, "model": "["})
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{HEADING}: 4 problems"
    assert [line.split(":")[0].strip() for line in lines[1:5]] == [
        "a.b",
        "model=[ is not valid YAML at line 2, column 1",
        "train.lr",
        "epochs",
    ]
    assert lines[5:] == [
        "params.yaml: 1 problem",
        '  train.seed: expected a whole number, found "x"',
    ]


def test_what_does_not_go_together_is_reported_beside_a_wrong_value() -> None:
    with pytest.raises(ParamsError) as caught:
        replaced(TEXT, {"train.lr": "x", "evaluate.slices": "[site]"})
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "train.lr",
        "evaluate.slices",
    ]


def test_a_setting_can_correct_the_file() -> None:
    text = TEXT.replace("seed: 0 ", "seed: x ")
    assert parse_yaml(replaced(text, {"train.seed": 1}), "params.yaml")["train"]["seed"] == 1


def test_comments_and_quotes_stay() -> None:
    assert replaced(TEXT, {"train.seed": 1}) == TEXT.replace("seed: 0 ", "seed: 1 ")
    quoted = TEXT.replace("device: auto ", "device: 'cuda:1' ")
    assert "device: 'cuda:1'" in replaced(quoted, {"train.seed": 1})


def test_what_lasts_is_what_a_stage_lists() -> None:
    settings = {"train.lr": 1, "training.x": 2, "gate.margin": 3, "prepare.size": [1, 2]}
    assert lasting(settings, {"train", "prepare"}) == {"train.lr": 1, "prepare.size": [1, 2]}
    assert in_words({"gate.max_shrink": 1, "run.workers": 4}) == "gate.max_shrink=1, run.workers=4"
