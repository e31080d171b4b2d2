"""The stage: exact, resumable, and loud where the data or the params are wrong."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tasks.train as verb
from tasks.errors import CorruptData, TrainingError
from tasks.learning.card import load_model
from tests.learning.samples import ROOT, Trainer

pytest_plugins = ["tests.learning.fixtures"]


def stop_after(steps: int) -> Callable[[], bool]:
    """`stopping()` of a process that gets SIGTERM in the midst of training."""
    count = itertools.count()
    return lambda: next(count) >= steps


def test_it_writes_weights_a_card_and_curves(pictured: Path, trained: Trainer) -> None:
    written = trained(pictured)
    model, card = load_model(pictured / "models/classifier.json", pictured / "models/classifier.pt")
    assert card.architecture == {"name": "cnn", "arguments": {}}
    assert not model.training
    lines = written["reports/training/curves.tsv"].decode().splitlines()
    assert lines[0].split("\t") == ["epoch", "train_loss", "val_loss", "val_accuracy", "learning_rate"]
    assert len(lines) == 3
    assert not (pictured / ".checkpoints").exists() or not list((pictured / ".checkpoints").iterdir())


def test_one_seed_gives_one_model_and_another_another(pictures: Path, tmp_path: Path, trained: Trainer) -> None:
    first, again, other = (shutil.copytree(pictures, tmp_path / name) for name in ("a", "b/deeper", "c"))
    assert trained(first) == trained(again)
    assert trained(other, train__seed=1)["models/classifier.pt"] != (first / "models/classifier.pt").read_bytes()


@pytest.mark.parametrize(("steps", "workers"), [(0, 0), (3, 2), (11, 0)])
def test_a_stopped_run_goes_on_and_ends_bit_equal(
    pictures: Path, tmp_path: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch, steps: int, workers: int
) -> None:
    hard = {"train__ema": 0.9, "train__patience": 2, "train__augment__crop": 2, "run__loader_workers": workers}
    whole = trained(shutil.copytree(pictures, tmp_path / "whole"), **hard)
    pictured = shutil.copytree(pictures, tmp_path / "stopped")
    monkeypatch.setattr(verb, "stopping", stop_after(steps))
    with pytest.raises(SystemExit, match="143"):
        trained(pictured, **hard)
    assert list((pictured / ".checkpoints").rglob("*.pt"))
    monkeypatch.setattr(verb, "stopping", lambda: False)
    assert trained(pictured, **hard) == whole


def test_a_corrupt_checkpoint_gives_way_to_the_one_before(
    pictures: Path,
    tmp_path: Path,
    trained: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = trained(shutil.copytree(pictures, tmp_path / "whole"))
    pictured = shutil.copytree(pictures, tmp_path / "stopped")
    monkeypatch.setattr(verb, "stopping", stop_after(5))
    with pytest.raises(SystemExit):
        trained(pictured)
    newest = max((pictured / ".checkpoints").rglob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    monkeypatch.setattr(verb, "stopping", lambda: False)
    capsys.readouterr()
    assert trained(pictured) == whole
    said = capsys.readouterr().out
    assert f"checkpoint {newest.name} is corrupt" in said
    assert "goes on from epoch 1, step" in said


def test_other_data_or_params_start_afresh(
    pictured: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verb, "stopping", stop_after(5))
    with pytest.raises(SystemExit):
        trained(pictured)
    monkeypatch.setattr(verb, "stopping", lambda: False)
    trained(pictured, train__lr=0.001)
    targets = pictured / "data/prepared/train/targets.npy"
    np.save(targets, np.load(targets)[::-1])
    trained(pictured)
    assert "goes on" not in capsys.readouterr().out


def test_a_loss_that_is_no_number_stops_within_a_step(pictured: Path, trained: Trainer) -> None:
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) in epoch 1, step [1-9].*lower train.lr"):
        trained(pictured, train__lr=1e30, train__optimizer={"name": "SGD", "arguments": {}}, train__schedule=None)
    assert not (pictured / "models").exists()


def test_a_nan_in_the_data_is_named(tables: Path, trained: Trainer) -> None:
    file = tables / "data/prepared/train/inputs.npy"
    rows = np.load(file)
    rows[3, 2] = np.nan
    np.save(file, rows)
    with pytest.raises(TrainingError, match=r"the loss became nan in epoch 1.*extreme values in the data"):
        trained(tables, model__name="mlp")


def test_features_train_the_simple_net(tables: Path, trained: Trainer) -> None:
    trained(
        tables,
        model__name="simple_net",
        train__criterion={"name": "BCELoss", "arguments": {}},
        train__epochs=20,
        train__precision="float32",
    )
    last = (tables / "reports/training/curves.tsv").read_text().splitlines()[-1].split("\t")
    assert float(last[3]) > 0.8
    card = json.loads((tables / "models/classifier.json").read_text())
    assert card["spec"]["classes"] == ["no", "yes"]


def test_without_prepared_data_it_says_what_to_run(tmp_path: Path, trained: Trainer) -> None:
    with pytest.raises(CorruptData, match=r"spec\.json is no spec.*run `dvc repro prepare`"):
        trained(tmp_path)


def test_sigterm_writes_a_checkpoint_and_ends_within_seconds(pictures: Path, tmp_path: Path) -> None:
    pictured = shutil.copytree(pictures, tmp_path / "pictured")
    (pictured / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("epochs: 8", "epochs: 100000"))
    shutil.copy(ROOT / "dvc.yaml", pictured)
    subprocess.run(["git", "init", "--quiet"], cwd=pictured, check=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.train"], cwd=pictured, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "epoch 2/" not in process.stdout.readline():
        assert process.poll() is None
    asked = time.monotonic()
    process.terminate()
    assert process.wait(10) == 143
    assert time.monotonic() - asked < 10
    process.stdout.close()
    assert list((pictured / ".checkpoints").rglob("*.pt"))
