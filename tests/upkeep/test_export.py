"""Each format comes back in a fresh process; a pickle is never read unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from ratchet.errors import CorruptModel, TrainingError
from ratchet.models.card import load_model
from ratchet.upkeep import export as exports
from ratchet.upkeep.export import export
from tests.helpers.learning_samples import Trainer

pytest_plugins = ["tests.helpers.learning_fixtures"]


@pytest.fixture
def files(tables: Path, trained: Trainer) -> tuple[Path, Path]:
    trained(tables, model__name="mlp")
    return tables / "models/classifier.json", tables / "models/classifier.pt"


@pytest.mark.parametrize("format", exports.FORMATS)
def test_every_format_comes_back(files: tuple[Path, Path], tmp_path: Path, format: str) -> None:
    if format == "safetensors":
        pytest.importorskip("safetensors")
    target = tmp_path / "out" / f"model.{format}"
    export(*files, format, target)
    assert target.stat().st_mode & 0o777 == files[0].stat().st_mode & 0o777
    if format != "whole_model":
        assert (
            json.loads((target.parent / f"{target.name}.json").read_text())["architecture"]["name"]
            == "mlp"
        )


def test_a_whole_model_asks_for_trust(files: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "whole.pt"
    export(*files, "whole_model", target)
    with pytest.raises(
        CorruptModel, match=r"loading it runs any code in it; pass trust=True if you made it"
    ):
        load_model(target)
    model, card = load_model(target, trust=True)
    rows = torch.randn(2, 10)
    assert torch.equal(model(rows), load_model(*files)[0](rows))
    assert card.architecture["name"] == "mlp"


def test_a_whole_model_that_is_none_is_explained(tmp_path: Path) -> None:
    bare = tmp_path / "bare.pt"
    torch.save(torch.nn.Linear(2, 2), bare)
    text = tmp_path / "text.pt"
    text.write_text("not a pickle")
    for path, words in (
        (bare, "no attribute 'card'"),
        (text, "invalid load key"),
        (tmp_path / "none.pt", "No such file"),
    ):
        with pytest.raises(
            CorruptModel,
            match=rf"is not a file that `ratchet export --format whole_model` writes: .*{words}",
        ):
            load_model(path, trust=True)


def test_what_comes_back_changed_is_not_exported(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(model: exports.Model, inputs: torch.Tensor, file: Path) -> None:
        with torch.no_grad():
            next(model.module.parameters()).add_(1)
        exports._save_state_dict(model, inputs, file)

    monkeypatch.setitem(
        exports.FORMATS, "state_dict", exports.Format(damage, exports._load_state_dict)
    )
    with pytest.raises(
        TrainingError,
        match=r"does not give the same outputs as the model \(outputs differ by .*nothing was exported",
    ):
        export(*files, "state_dict", tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()


def test_an_unknown_format_names_the_others(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"no format 'onnx'; expected one of state_dict, safetensors"
    ):
        export(*files, "onnx", tmp_path / "x")


def test_a_pickle_with_code_in_it_is_not_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    card, weights = files
    weights = shutil.copy(weights, tmp_path / "evil.pt")
    torch.save({"x": Evil()}, weights)
    import hashlib

    held = json.loads(card.read_text())
    card.write_text(
        json.dumps({**held, "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()})
    )
    with pytest.raises(CorruptModel, match=r"evil\.pt"):
        load_model(card, weights)
    assert not (tmp_path / "ran").exists()
